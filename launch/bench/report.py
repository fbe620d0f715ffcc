"""The figures of a bench as short lines for a person. launch/commands/bench.py prints them."""

from __future__ import annotations

import textwrap


def page(result: dict, speed: str) -> str:
    """One case: ours, then a line each for every peer, the limit and the last time. `speed`: the figure compared."""
    lines = [f"{result['what']} {result['config']}, {shape(result)}: {figures(result, speed)}"]
    for peer in result.get("peers", []):
        separator = "; " if speed == "tokens_per_second" else "\n"
        lines.append(f"{peer['name']}: {figures(peer, speed)}{separator}{ratio_text(peer, speed, result['busy'])}")
    limit = f"{result['limit_tokens_per_second']:,.0f} tokens/s"
    lines.append(f"limit of this machine: {limit}; {result['share_of_limit']:.2f} of it")
    if result["last"]:
        lines.append(last_text(result, speed))
    if "data_wait" in result:
        lines.append(f"training waits {result['data_wait']:.2%} of its time for rows")
    return textwrap.indent("\n".join(lines), "  ")[2:]


def shape(result: dict) -> str:
    if result["what"] == "decode":
        return f"batch {result['batch']}, {result['prompt']} + {result['new']} tokens"
    return f"{result['batch']} rows"


def figures(of: dict, speed: str) -> str:
    """Speed, and for decoding what the prompt does to it."""
    if speed == "tokens_per_second":
        return f"{of[speed]:,.0f} tokens/s"
    first = f"first {of['first_tokens']:.0f} tokens" if of["first_tokens"] > 1 else "first token"
    return (
        f"{of[speed]:,.1f} tokens/s, with the prompt {of['tokens_per_second']:,.1f}; "
        f"{first} after {of['first_token_seconds']:.3f} s"
    )


def ratio_text(peer: dict, speed: str, busy: str | None) -> str:
    """Ours over the peer's."""
    ratios = peer["ratios"]
    text = f"ratio {ratios[speed]:.2f}"
    if "first_token_seconds" in ratios:
        text += f", with the prompt {ratios['tokens_per_second']:.2f}; "
        text += f"first token after {ratios['first_token_seconds']:.2f} of its time"
    return text + (f" (busy machine: {busy})" if busy else "")


def last_text(result: dict, speed: str) -> str:
    last = result["last"]
    before = last["figures"][speed]
    busy = " on a busy machine" if last["busy"] else ""
    return f"last time, {last['date']}{busy}: {before:,.0f} tokens/s; {result[speed] / before:.2f} of it"


def engine_page(result: dict) -> str:
    """Many requests at once against one after another."""
    first, again = result["first_token_seconds"], result["again"]
    return (
        f"decode {result['config']}, {result['batch']} requests at once: {result['tokens_per_second']:,.0f} tokens/s; "
        f"one after another {result['against']['tokens_per_second']:,.0f}; ratio {result['ratio']:.2f}; first token "
        f"after {first['50']:.2f} s (median), {first['99']:.2f} s (99th percentile); {result['programs']} programs; "
        f"asked again, {again['tokens_found']:,} tokens are found and {again['tokens_read']:,} read"
    )


def invariance_page(result: dict) -> str:
    """What the same bits in any company cost, a line for each number of requests."""
    return "\n".join(
        f"decode {result['config']}, {case['batch']} requests at once, tiles of {result['tile']}: "
        f"{case['tokens_per_second']:,.1f} tokens/s; fast mode {case['against']['tokens_per_second']:,.1f}; "
        f"ratio {case['ratio']:.2f}"
        for case in result["cases"]
    )


def quantization_page(result: dict) -> str:
    """What weights in few bits gain, a line for each number of rows."""
    return "\n".join(
        f"decode {result['config']}, batch {case['batch']}: {case['tokens_per_second']:,.1f} tokens/s with weights in "
        f"{result['quantize']}; as they are {case['against']['tokens_per_second']:,.1f}; ratio {case['ratio']:.2f}"
        for case in result["cases"]
    )


def likelihood_page(result: dict) -> str:
    """Requests a second, and the peer's."""
    own = f"likelihood {result['config']}, {result['items']:,} questions with two answers: "
    lines = [f"{own}{result['requests_per_second']:,.1f} requests/s"]
    if "against" in result:
        peer = result["against"]
        lines.append(f"  {peer['name']}: {peer['requests_per_second']:,.1f} requests/s; ratio {result['ratio']:.2f}")
    return "\n".join(lines)
