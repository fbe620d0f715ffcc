"""Stops a run at the first number that is infinite or NaN, before anything of it is written or saved."""

from __future__ import annotations

import math

from train.events import Evaluated, Event, Measured
from train.run import Run, RunError


def check_finite(run: Run, event: Event) -> None:
    """Raises RunError at the first metric of a step or an evaluation that is infinite or not a number."""
    match event:
        case Measured(steps):
            for values in steps:
                check_values(run, values["step"], values)
        case Evaluated(step, values):
            check_values(run, step, values)


def check_values(run: Run, step: int, values: dict) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise RunError(
                f"{run.folder}: {name} is {value} at step {step}; the checkpoints before it are whole; a lower "
                f"optimizer.peak_rate or a longer optimizer.schedule.warmup may help"
            )
