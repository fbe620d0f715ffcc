"""What RUN/card.json can't know, and why: a sentence each. train/card.py puts them on the card."""

from __future__ import annotations

from train.attempts import BEAT, KILLED, RUNNING, Attempt
from train.config import Experiment

GENERATED = "joules_per_generated_token"


def unknown_past(attempts: list[Attempt]) -> list[str]:
    """What a card can't know of what was done, a sentence each."""
    lines = []
    if attempts[0].first_step:
        lines.append(f"what steps 1 to {attempts[0].first_step} took: they were trained before this card was kept")
    killed = [attempt.number for attempt in attempts if attempt.ended == KILLED]
    if killed:
        lines.append(
            f"what attempts {killed} did between their last line in metrics.jsonl and the kill, but for the time until "
            "the last sign of life, which counts as lost"
        )
    if attempts[-1].ended == RUNNING:
        lines.append(
            f"how attempt {attempts[-1].number} goes on behind step {attempts[-1].step}: the card is its last save's"
        )
    return lines


def unknown_energy(attempts: list[Attempt], e: Experiment, method: str) -> list[str]:
    """What counters of energy did not see, and why emissions are not known, if they are not. `method`: of the energy of
    all attempts."""
    lines = []
    late = [attempt for attempt in attempts if attempt.reading["by_device"] and attempt.unread >= 1]
    if late:
        seconds = ", ".join(f"{attempt.unread:.0f} s" for attempt in late)
        lines.append(
            f"what attempts {[attempt.number for attempt in late]} drew at their end ({seconds}): their counters of "
            f"energy were read before that; where it is more than {BEAT:.0f} s, the energy does not count as measured"
        )
    if method == "unmeasured" or not (e.energy.pue and e.energy.grid):
        missing = ["energy"] * (method == "unmeasured")
        missing += [f"energy.{name}" for name in ("pue", "grid") if getattr(e.energy, name) is None]
        lines.append(f"co2e_grams: {', '.join(missing)} not known")
    return lines


def unknown_utilization(attempts: list[Attempt]) -> list[str]:
    """Why the utilization is not known."""
    kinds = dict.fromkeys(attempt.device["kind"] for attempt in attempts if not attempt.device["peak_flops"])
    reason = f"the peak of {', '.join(kinds)} is not known" if kinds else "no step was computed"
    return [f"model_flops_utilization: {reason}"]


def unknown_money(attempts: list[Attempt], e: Experiment) -> list[str]:
    """Which attempts have no price."""
    numbers = [attempt.number for attempt in attempts if not attempt.figures(e)["chip_hour"]]
    return [f"money: chip_hour not stated for {f'attempts {numbers}' if len(numbers) < len(attempts) else 'the run'}"]


def unknown_generation(generation: dict | None) -> list[str]:
    """Why the energy of a generated token is not known, if it is not."""
    if generation is None:
        return [f"{GENERATED}: nothing was generated under measurement (skald quality)"]
    return [f"{GENERATED}: {generation['about']}"] if generation["joules_per_token"] is None else []
