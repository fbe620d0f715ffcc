"""`skald bench train|decode`: this machine's speed, beside its own limit and, with --against, beside a peer's."""

from __future__ import annotations

import json
import statistics
import sys
from argparse import Namespace

from launch.bench import decoding, training
from launch.bench.peer import Peer
from train import fields
from train.check import check_vocabulary_stated


def command(arguments: Namespace) -> int:
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


def measure(bench, experiment, case: dict, arguments: Namespace) -> dict:
    """One case's figures: our runs and the peer's in turn, medians of each, and what the machine allows at most."""
    peer = Peer(arguments.what, fields.to_json(experiment), case) if arguments.against else None
    try:
        ours = bench.task(experiment, **case)
        ours(), peer and peer()  # compilation and first touches, not counted
        runs, others = [], []
        for number in range(arguments.runs):
            runs.append(ours())
            if peer:
                others.append(peer())
            print(f"run {number + 1}: {runs[-1]:,.1f} tokens/s{peer_text(others)}", file=sys.stderr)
    finally:
        if peer:
            peer.close()
    speed = statistics.median(runs)
    found = {"what": arguments.what, "config": experiment.name, **case, "tokens_per_second": round(speed, 1)}
    if peer:
        found["against"] = {"name": peer.name, "tokens_per_second": round(statistics.median(others), 1)}
        found["ratio"] = round(speed / statistics.median(others), 3)
        found["against"]["runs"] = [round(run, 1) for run in others]
    found["limit_tokens_per_second"] = round(bench.limit(experiment, **case), 1)
    return {**found, "runs": [round(run, 1) for run in runs]}


def peer_text(others: list[float]) -> str:
    return f"   peer {others[-1]:,.1f}" if others else ""


def summary(found: dict) -> str:
    shape = f"{found['config']}, {found['batch']} {'rows' if found['what'] == 'train' else 'sequences'}"
    text = f"{found['what']} {shape}: {found['tokens_per_second']:,.0f} tokens/s"
    if "ratio" in found:
        other = found["against"]
        text += f"; {other['name']} {other['tokens_per_second']:,.0f}; ratio {found['ratio']:.2f}"
    return f"{text}; limit of this machine {found['limit_tokens_per_second']:,.0f}"
