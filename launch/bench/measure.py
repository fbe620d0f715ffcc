"""One case of a benchmark: our runs and a peer's in turn, in one process. launch/commands/bench.py calls it."""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace

from launch.bench.peer import Peer
from train import fields


def measure(bench, experiment, case: dict, arguments: Namespace) -> dict:
    """Measures one case: our runs and the peer's in turn, the median of each, and the limit of this machine."""
    peer = Peer(arguments.against, arguments.what, fields.to_json(experiment), case) if arguments.against else None
    try:
        ours = bench.task(experiment, **case)
        ours(), peer and peer()  # compilation and first touches, not counted
        runs, peer_runs = [], []
        for number in range(arguments.runs or 5):
            runs.append(ours())
            if peer:
                peer_runs.append(peer())
            print(f"run {number + 1}: {runs[-1]:,.1f} tokens/s{peer_text(peer_runs)}", file=sys.stderr)
    finally:
        if peer:
            peer.close()
    speed = statistics.median(runs)
    result = {"what": arguments.what, "config": experiment.name, **case, "tokens_per_second": round(speed, 1)}
    if peer:
        result["against"] = {"name": peer.name, "tokens_per_second": round(statistics.median(peer_runs), 1)}
        result["ratio"] = round(speed / statistics.median(peer_runs), 3)
        result["against"]["runs"] = [round(run, 1) for run in peer_runs]
    result["limit_tokens_per_second"] = round(bench.limit(experiment, **case), 1)
    return {**result, "runs": [round(run, 1) for run in runs]}


def peer_text(peer_runs: list[float]) -> str:
    return f"   peer {peer_runs[-1]:,.1f}" if peer_runs else ""
