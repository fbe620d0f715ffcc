"""One case of a benchmark: our runs, the peers' and the machine's limit in turn. launch/commands/bench.py calls it."""

from __future__ import annotations

import os
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from launch.bench.peer import start_peers
from launch.machine.load import Load, LoadMeter
from train import fields

Figures = dict[str, float]  # of one run, by name; the bench's SPEED among them
OURS, LIMIT = "Skald", "the limit"  # the sides that every bench has
SPREAD = 0.2  # of runs that agree, (max - min) / median


def measure(bench, experiment, case: dict, arguments: Namespace) -> dict:
    """Measures one case: all sides in turn, so that what slows the machine slows each, and the median of each."""
    with ExitStack() as stack:
        given = (arguments.what, fields.to_json(experiment), case)
        peers, left_out = start_peers(arguments.against, *given) if arguments.against else ([], [])
        for peer in peers:
            stack.callback(peer.close)
        sides = {OURS: bench.task(experiment, **case), **{peer.name: peer for peer in peers}}
        sides[LIMIT] = bench.limit(experiment, **case)
        for run in sides.values():
            run()  # compilation and first touches, not counted
        meter = LoadMeter([os.getpid(), *(peer.process.pid for peer in peers)])
        runs = run_in_turn(sides, arguments.runs or 5, bench.SPEED)
        load = meter.load()
    peer_runs = {name: own for name, own in runs.items() if name not in (OURS, LIMIT)}
    return {
        "what": arguments.what,
        "config": experiment.name,
        **case,
        **medians(runs[OURS]),
        **comparison(runs[OURS], peer_runs),
        **limit_figures(runs, bench.SPEED),
        "warnings": [*left_out, *spread_warnings(runs, bench.SPEED), *load_warnings(load)],
        "busy": str(load) if load and load.busy else None,
        "runs": column(runs[OURS], "tokens_per_second"),
        "figures": {name: column(runs[OURS], name) for name in runs[OURS][0]},
    }


def run_in_turn(sides: dict[str, Callable[[], Figures]], count: int, speed: str) -> dict[str, list[Figures]]:
    """The figures of `count` runs of each side; prints each turn's speeds."""
    runs: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(count):
        for name, run in sides.items():
            runs[name].append(run())
        text = "   ".join(f"{name} {own[-1][speed]:,.1f}" for name, own in runs.items())
        print(f"run {number + 1}, tokens/s: {text}", file=sys.stderr)
    return runs


def comparison(ours: Sequence[Figures], peer_runs: dict[str, list[Figures]]) -> dict:
    """Every peer's medians and what ours are of them; `against` and `ratio` are of the fastest peer."""
    if not peer_runs:
        return {}
    peers = [
        {"name": name, **medians(runs), "ratios": ratios(ours, runs), "runs": column(runs, "tokens_per_second")}
        for name, runs in peer_runs.items()
    ]
    fastest = max(peers, key=lambda peer: peer["tokens_per_second"])
    return {"against": fastest, "ratio": fastest["ratios"]["tokens_per_second"], "peers": peers}


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> Figures:
    """The median of each figure of ours over that of theirs."""
    return {name: round(median(ours, name) / median(theirs, name), 3) for name in ours[0]}


def limit_figures(runs: dict[str, list[Figures]], speed: str) -> dict:
    """The median of the limit, and the share of it that our median is."""
    limit = median(runs[LIMIT], speed)
    return {
        "limit_tokens_per_second": rounded(limit),
        "share_of_limit": round(median(runs[OURS], speed) / limit, 3),
        "limits": column(runs[LIMIT], speed),
    }


def spread_warnings(runs: dict[str, list[Figures]], speed: str) -> list[str]:
    """A line for each side whose runs do not agree."""
    warnings = []
    for name, own in runs.items():
        values = [figures[speed] for figures in own]
        spread = (max(values) - min(values)) / statistics.median(values)
        if spread > SPREAD:
            warnings.append(f"the runs of {name} spread by {spread:.0%} of their median; its figure is a rough one")
    return warnings


def load_warnings(load: Load | None) -> list[str]:
    return [f"busy machine: {load}"] if load and load.busy else []


def medians(runs: Sequence[Figures]) -> Figures:
    return {name: rounded(median(runs, name)) for name in runs[0]}


def median(runs: Sequence[Figures], name: str) -> float:
    return statistics.median(figures[name] for figures in runs)


def column(runs: Sequence[Figures], name: str) -> list[float]:
    """One figure of every run."""
    return [rounded(figures[name]) for figures in runs]


def rounded(value: float) -> float:
    """To six digits: more than any run can tell."""
    return float(f"{value:.6g}")
