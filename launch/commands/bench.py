"""`skald bench train|decode`: this machine's speed, beside its own limit and, with --against, beside a peer's."""

from __future__ import annotations

import json
from argparse import Namespace

from launch.bench import decoding, training
from launch.bench.measure import measure
from train.check import check_vocabulary_stated


def main(arguments: Namespace) -> int:
    check_vocabulary_stated(arguments.experiment)
    bench = {"train": training, "decode": decoding}[arguments.what]
    found = []
    for case in bench.cases(arguments):
        found.append(measure(bench, arguments.experiment, case, arguments))
        if not arguments.json:
            print(summary(found[-1]), flush=True)
    if arguments.json:
        print(json.dumps({**found[0], "cases": found}))
    return 0


def summary(found: dict) -> str:
    shape = f"{found['config']}, {found['batch']} {'rows' if found['what'] == 'train' else 'sequences'}"
    text = f"{found['what']} {shape}: {found['tokens_per_second']:,.0f} tokens/s"
    if "ratio" in found:
        other = found["against"]
        text += f"; {other['name']} {other['tokens_per_second']:,.0f}; ratio {found['ratio']:.2f}"
    return f"{text}; limit of this machine {found['limit_tokens_per_second']:,.0f}"
