"""Long curves in few points, without hiding what happened: each bin keeps its smallest and its largest value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

POINTS = 480  # bins of a long curve: about one for each two pixels of a chart


class Bin(NamedTuple):
    """A stretch of a curve: its middle, the smallest, the mean and the largest of its finite values; NaN where it has
    none. `count`: its values; `bad`: those that are not finite."""

    x: float
    low: float
    mean: float
    high: float
    count: int
    bad: int


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = POINTS) -> list[Bin]:
    """A curve with rising x in at most `limit` bins of equal width in x; a bin a value where the curve is that short.
    Bins in which the curve has no value are left out."""
    if len(xs) <= limit:
        return [make_bin([x], [y]) for x, y in zip(xs, ys, strict=True)]
    first, width = xs[0], (xs[-1] - xs[0]) / limit
    bins: dict[int, tuple[list, list]] = {}
    for x, y in zip(xs, ys, strict=True):
        own = bins.setdefault(min(int((x - first) / width), limit - 1), ([], []))
        own[0].append(x)
        own[1].append(y)
    return [make_bin(*bins[number]) for number in sorted(bins)]


def make_bin(xs: list[float], ys: list[float]) -> Bin:
    good = [y for y in ys if math.isfinite(y)]
    middle = (xs[0] + xs[-1]) / 2
    if not good:
        return Bin(middle, math.nan, math.nan, math.nan, len(ys), len(ys))
    return Bin(middle, min(good), math.fsum(good) / len(good), max(good), len(ys), len(ys) - len(good))
