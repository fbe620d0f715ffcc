"""The results of launch/bench/gpu.sh: what each step printed, as lines of one JSON file, and a summary to read.

    python3 -m launch.bench.figures add results.jsonl STEP OUTCOME SECONDS <what the step printed
    python3 -m launch.bench.figures summary results.jsonl

It needs nothing but Python itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def add(file: Path, step: str, outcome: str, seconds: int, printed: str) -> None:
    """Appends what a step printed, each JSON line as a line; a step that printed none is a line of its own."""
    facts = {"step": step, "outcome": outcome, "step_seconds": seconds}
    results = [json.loads(line) for line in printed.splitlines() if line.startswith("{")] or [{}]
    with file.open("a") as lines:
        for result in results:
            result.pop("cases", None)  # of the bench: a step measures one, which stands beside it
            lines.write(json.dumps(facts | result) + "\n")


def summary(results: list[dict]) -> str:
    return "\n".join(line(result) for result in results)


def line(result: dict) -> str:
    """One result in a line."""
    parts = [TEXTS[result["what"]](result)] if "what" in result else []
    parts += [result["outcome"]] if not parts or result["outcome"] != "done" else []
    return f"{result['step']}: {' | '.join(parts)}"


def machine(result: dict) -> str:
    gpus = "; ".join(", ".join(gpu.values()) for gpu in result["gpus"]) or "no GPU"
    names = ("python", "jax", "jaxlib", "flax", "torch", "transformers")
    versions = ", ".join(f"{name} {result[name]}" for name in names if result[name])
    missing = f"; not installed: {', '.join(result['missing'])}" if result["missing"] else ""
    return f"{gpus}; {versions}; JAX computes on {result['backend']}{missing}"


def proof(result: dict) -> str:
    taken = f" ({result['chosen']})" if result["chosen"] not in (None, result["kernel"]) else ""
    return f"{result['kernel']}{taken}, {result['attention']}: {result['error'] or 'proven'}"


def speed(result: dict) -> str:
    """Tokens a second beside the peer's, and as a share of the limit."""
    rate, limit = result["tokens_per_second"], result["limit_tokens_per_second"]
    share = result["share_of_limit"]  # of decoding alone, without its prompt
    text = f"{result['config']}, batch {result['batch']}: {rate:,.0f} tokens/s, {share:.0%} of {limit:,.0f}"
    if "against" in result:
        other = result["against"]
        text += f"; {other['name']} {other['tokens_per_second']:,.0f}; ratio {result['ratio']:.2f}"
    return text


TEXTS = {"machine": machine, "proof": proof, "train": speed, "decode": speed}  # by `what`

if __name__ == "__main__":
    command, file, *rest = sys.argv[1:]
    if command == "add":
        step, outcome, seconds = rest
        add(Path(file), step, outcome, int(seconds), sys.stdin.read())
    else:
        print(summary([json.loads(each) for each in Path(file).read_text().splitlines()]))
