"""Scales from values to places on a chart, and round ticks for them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from launch.report.numbers import significant

STEPS = (1, 2, 2.5, 5, 10)  # of ticks, times a power of ten


@dataclass(frozen=True)
class Scale:
    """Values `low` .. `high` on places `start` .. `stop`, evenly."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def invert(self, place: float) -> float:
        return self.low + (place - self.start) / (self.stop - self.start) * (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """Round values, about so many, from low to high, both included where they are round themselves."""
        step = tick_step(self.low, self.high, count)
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [n * step for n in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale(Scale):
    """The same for positive values: equal ratios at equal distances."""

    def __call__(self, value: float) -> float:
        return self.start + math.log(value / self.low) / math.log(self.high / self.low) * (self.stop - self.start)

    def invert(self, place: float) -> float:
        return self.low * (self.high / self.low) ** ((place - self.start) / (self.stop - self.start))

    def ticks(self, count: int) -> list[float]:
        """1, 2 and 5 times the powers of ten; the powers alone where those would be many more than `count`."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        heads = (1, 2, 5) if len(powers) <= count else (1,)
        values = [head * 10.0**power for power in powers for head in heads]
        return [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def tick_step(low: float, high: float, count: int) -> float:
    """The round step that cuts low .. high into at most about `count` parts."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))


def tick_labels(values: list[float], units=()) -> list[str]:
    """All with the same unit and the same number of decimal places, so that they can be compared at a glance."""
    largest = max((abs(value) for value in values), default=0.0)
    size, unit = next(((size, f" {name}") for size, name in units if largest >= size), (1.0, ""))
    scaled = [value / size for value in values]
    places = next((p for p in range(7) if all(abs(v - round(v, p)) <= 1e-6 * abs(v) for v in scaled)), None)
    if places is None:
        return [significant(value) for value in values]
    return [f"{v:,.{places}f}".replace("-", "−") + unit if v else "0" for v in scaled]


def bounds(values: Iterable[float | None], count: int, from_zero: bool = False) -> tuple[float, float]:
    """The smallest range that holds all finite values and ends on ticks. One value gets room on both sides."""
    numbers = finite(values) or [0.0, 1.0]
    low, high = min(numbers), max(numbers)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(high) / 2 or 0.5
        low, high = low - room, high + room
    step = 0.0
    while step != (step := tick_step(low, high, count)):  # a wider range may have a wider step; it ends as both grow
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high


def log_bounds(values: Iterable[float | None]) -> tuple[float, float]:
    """The smallest range between two of 1, 2, 5 times powers of ten that holds all values."""
    numbers = finite(values)
    ends = [head * 10.0**power for power in range(-300, 300) for head in (1, 2, 5)]
    low = max(end for end in ends if end <= min(numbers) * (1 + 1e-9))
    return low, min(end for end in ends if end >= max(numbers) * (1 - 1e-9) and end > low)
