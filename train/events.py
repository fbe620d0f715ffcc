"""What happens during a run, told to every listener in order. The loop and some listeners tell them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    step: int  # updates already made: above 0 on resuming


@dataclass(frozen=True)
class Measured:
    """Metrics of consecutive steps, in order; each has `step` and what train_step returned."""

    steps: list[dict]


@dataclass(frozen=True)
class Paused:
    """The state is that of `step` and nothing is in flight: time to evaluate or to save."""

    step: int


@dataclass(frozen=True)
class Advanced:
    """Within a pause a batch was scored, or some tokens of a sample were written: a signal is heard here too."""

    step: int


@dataclass(frozen=True)
class Evaluated:
    step: int
    values: dict  # eval/loss and others, by metric name


@dataclass(frozen=True)
class Sampled:
    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    step: int
    path: str


@dataclass(frozen=True)
class Ended:
    """`reason`: `done`, or the signal's name that stopped the run."""

    step: int
    reason: str


Event = Started | Measured | Paused | Advanced | Evaluated | Sampled | Saved | Ended
