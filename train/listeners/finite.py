"""Stops a run whose numbers are no longer numbers, before anything of them is written or saved."""

from __future__ import annotations

import math

from train.events import Event, Measured
from train.run import Run, RunError


def finite(run: Run, event: Event) -> None:
    """Raises RunError at the first loss or gradient that is infinite or not a number."""
    if not isinstance(event, Measured):
        return
    for values in event.steps:
        for name in ("train/loss", "grad_norm"):
            if not math.isfinite(values[name]):
                raise RunError(
                    f"{run.folder}: {name} is {values[name]} at step {values['step']}; the checkpoints before it are "
                    f"whole; a lower optimizer.peak_rate or a longer optimizer.schedule.warmup may help"
                )
