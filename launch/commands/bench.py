"""`skald bench train|decode|data`: this machine's speed, beside its own limit and, with --against, beside a peer's."""

from __future__ import annotations

import json
from argparse import Namespace

from launch.bench import batching, decoding, feeding, invariance, training, waiting
from launch.bench.measure import measure
from train.check import check_vocabulary_stated
from train.fields import ConfigError

PEERS_OF = {"train": ["hf"], "decode": ["hf"], "data": ["grain"]}


def main(arguments: Namespace) -> int:
    peers = PEERS_OF[arguments.what]
    if arguments.against not in (None, *peers):
        raise ConfigError(f"--against {arguments.against}: the peer of {arguments.what} is {' or '.join(peers)}")
    if arguments.what != "data":
        check_vocabulary_stated(arguments.experiment)
    if arguments.engine:
        return main_engine(arguments)
    if arguments.invariant:
        return main_invariant(arguments)
    bench = {"train": training, "decode": decoding, "data": feeding}[arguments.what]
    results = []
    for case in bench.cases(arguments):
        results.append(measure(bench, arguments.experiment, case, arguments))
        if arguments.what == "data":
            results[-1]["data_wait"] = waiting.data_wait(arguments.experiment)
        if not arguments.json:
            print(summary(results[-1]), flush=True)
    if arguments.json:
        print(json.dumps({**results[0], "cases": results}))
    return 0


def main_engine(arguments: Namespace) -> int:
    """`skald bench decode --engine`: many requests at once against one after another."""
    if arguments.what != "decode" or arguments.against or arguments.batch:
        raise ConfigError("--engine: it goes with decode alone, without --against and --batch; it brings its own peer")
    result = batching.measure(arguments.experiment, arguments)
    if arguments.json:
        print(json.dumps(result))
        return 0
    first, again = result["first_token_seconds"], result["again"]
    print(
        f"decode {result['config']}, {result['batch']} requests at once: {result['tokens_per_second']:,.0f} tokens/s; "
        f"one after another {result['against']['tokens_per_second']:,.0f}; ratio {result['ratio']:.2f}; first token "
        f"after {first['50']:.2f} s (median), {first['99']:.2f} s (99th percentile); {result['programs']} programs; "
        f"asked again, {again['tokens_found']:,} tokens are found and {again['tokens_read']:,} read"
    )
    return 0


def main_invariant(arguments: Namespace) -> int:
    """`skald bench decode --invariant`: what the same bits in any company cost."""
    if arguments.what != "decode" or arguments.against:
        raise ConfigError("--invariant: it goes with decode alone, without --against; it brings its own peer")
    result = invariance.measure(arguments.experiment, arguments)
    if arguments.json:
        print(json.dumps(result))
        return 0
    for case in result["cases"]:
        print(
            f"decode {result['config']}, {case['batch']} requests at once, tiles of {result['tile']}: "
            f"{case['tokens_per_second']:,.1f} tokens/s; fast mode {case['against']['tokens_per_second']:,.1f}; "
            f"ratio {case['ratio']:.2f}"
        )
    return 0


def summary(result: dict) -> str:
    """One case's figures in one line."""
    shape = f"{result['config']}, {result['batch']} {'sequences' if result['what'] == 'decode' else 'rows'}"
    text = f"{result['what']} {shape}: {result['tokens_per_second']:,.0f} tokens/s"
    if "ratio" in result:
        other = result["against"]
        text += f"; {other['name']} {other['tokens_per_second']:,.0f}; ratio {result['ratio']:.2f}"
    text += f"; limit of this machine {result['limit_tokens_per_second']:,.0f}"
    return text + (f"; training waits {result['data_wait']:.2%} of its time for rows" if "data_wait" in result else "")
