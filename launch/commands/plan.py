"""`skald plan CONFIG --topology v5p:4x4x4`: compiles the step that `train` would run, for machines that are not here,
and prints its memory, work, time and cost. Without --topology: for the devices that are here."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import jax

from launch.machine.chips import GIB
from launch.plan import topology
from launch.plan.compiled import compile_plan
from launch.plan.page import ASSUMPTIONS, figures, page, ranking
from launch.plan.search import format_settings, rank_candidates, search
from train.check import check, check_vocabulary_stated
from train.fields import ConfigError


def main(arguments: Namespace) -> int:
    experiment, name = arguments.experiment, arguments.topology
    check(experiment)
    check_vocabulary_stated(experiment)
    if arguments.slices > 1 and not name:
        raise ConfigError(f"--slices {arguments.slices} needs a --topology")
    dump = Path(arguments.dump_hlo) if arguments.dump_hlo else None
    if dump and (dump.is_dir() or not dump.parent.is_dir()):  # now, not after minutes
        raise ConfigError(f"--dump-hlo {dump}: names a file in a folder that is there")
    devices = topology.devices(name, arguments.slices) if name else jax.devices()
    where = f"{arguments.slices} x {name}" if arguments.slices > 1 else name or "this machine"
    candidates = None
    if arguments.search:
        candidates = search(experiment, devices, lambda line: sys.stderr.write(f"{line}\n"))
        plan = candidates[0][1]
    else:
        plan = compile_plan(experiment, devices)
    if dump and plan.text:
        dump.write_text(plan.text)
    better = None if plan.fits or not name else next(iter(rank_candidates(experiment, devices)), None)
    if arguments.json:
        print(json.dumps(figures(plan, where, candidates, better)))
        return 0
    if candidates:
        print("\n".join(ranking(candidates)) + "\n")
    print("\n".join(page(plan, arguments.config, where)))
    if better:
        print(f"  by arithmetic this fits, in {better.bytes / GIB:.2f} GiB: {format_settings(better.settings)}")
    if candidates:
        print(f"  take it with: {format_settings(candidates[0][0].settings)}")
    if plan.step_time:
        print(f"\n{ASSUMPTIONS}")
    return 0
