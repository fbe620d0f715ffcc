"""What weights in few bits gain: the same texts by a decoder with them and by one without, in turn.

launch/commands/bench.py calls `measure` for `skald bench decode --quantize`. What they cost in quality, `skald evaluate
RUN --quantize` says.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from dataclasses import replace

from launch.bench import decoding
from launch.bench.decoding import NEW, PROMPT, SPEED
from train.config import Experiment


def measure(experiment: Experiment, arguments: Namespace) -> dict:
    """Tokens a second of both, prompts apart, for each number of rows."""
    sizes = arguments.batch or [1, 8]
    cases = [measure_case(experiment, arguments.quantize, size, arguments.runs or 5) for size in sizes]
    return {"what": "quantize", "config": experiment.name, "quantize": arguments.quantize, "cases": cases}


def measure_case(experiment: Experiment, quantize: str, rows: int, runs: int) -> dict:
    """Both in turn, so many rows at once; the ratio is the median of the runs' own."""
    names = {"ours": quantize, "peer": "none"}
    tasks = {side: decoding.task(with_weights(experiment, name), rows, PROMPT, NEW) for side, name in names.items()}
    speeds = {side: [] for side in tasks}
    for number in range(runs + 1):
        for side, run_once in tasks.items():
            speed = run_once()[SPEED]
            if number:  # the first compiles
                speeds[side].append(round(speed, 1))
        if number:
            ours, peer = (found[-1] for found in speeds.values())
            print(f"run {number}: {quantize} {ours:,.1f} tokens/s   as they are {peer:,.1f}", file=sys.stderr)
    ratios = [ours / peer for ours, peer in zip(*speeds.values(), strict=True)]
    return {
        "batch": rows,
        "tokens_per_second": statistics.median(speeds["ours"]),
        "against": {"name": "as they are", "tokens_per_second": statistics.median(speeds["peer"])},
        "ratio": round(statistics.median(ratios), 3),
        "runs": speeds,
    }


def with_weights(experiment: Experiment, quantize: str) -> Experiment:
    return replace(experiment, execution=replace(experiment.execution, quantize=quantize))
