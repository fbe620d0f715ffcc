"""One case of a benchmark: our runs and a peer's in turn, in one process. launch/commands/bench.py calls it."""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace

from launch.bench.peer import Peer
from train import fields


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
