"""The score interval of a proportion (Wilson 1927). train/quality/ and launch/inference/tasks/ use it."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # of the normal distribution: 95% of it lies within so many standard deviations


def wilson_interval(correct: float, total: float, z: float = Z95) -> list[float]:
    """The score interval of a proportion: [low, high], at 95% by default (Wilson 1927; method 3 of Newcombe 1998).

    Unlike mean and standard error it stays between 0 and 1, and has a width where all answers are right.
    """
    p, z2 = correct / total, z * z / total
    centre, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / total + z2 / (4 * total))
    low = 0.0 if correct == 0 else (centre - half) / (1 + z2)
    return [low, 1.0 if correct == total else (centre + half) / (1 + z2)]
