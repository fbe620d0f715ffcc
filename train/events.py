"""The events of a run: each goes to every listener, in order. The loop and some listeners emit them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    step: int  # updates made so far: above 0 on resuming


@dataclass(frozen=True)
class Measured:
    """Metrics of consecutive steps, in order: `step`, `seconds` and what train_step returned.

    `data_wait` is the share of the seconds in which the loop waited for rows.
    """

    steps: list[dict]


@dataclass(frozen=True)
class Paused:
    """The loop waits, nothing is in flight, the state is that of `step`: listeners evaluate and save now."""

    step: int


@dataclass(frozen=True)
class Advanced:
    """In a pause a batch was scored, or some tokens of a sample were generated: a signal is noticed here too."""

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
    """`reason`: `done`, the signal's name that stopped the run, or why a listener ended it before its last step."""

    step: int
    reason: str


Event = Started | Measured | Paused | Advanced | Evaluated | Sampled | Saved | Ended
