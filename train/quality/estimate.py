"""A measure of texts together with its value when any one text is left out: what the jackknife needs.

Every measure of this folder returns one; intervals.py turns it into an interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A measure of N texts: its `value`, and `without_N`, float64 [N]: the value of the others when text i is left
    out. nan where a measure is not defined, as the share of repeated 4-grams where no text has four tokens.

    `limit`: the greatest it can be, where 0 is the least; infinite for those that have no such bounds.
    """

    value: float
    without_N: np.ndarray
    limit: float = 1.0


def ratio(numerators_N: np.ndarray, denominators_N: np.ndarray, limit: float = 1.0) -> Estimate:
    """The sum of one number of each text over the sum of another: repeated tokens a token, nats a token. `limit`: the
    greatest it can be, infinite for nats."""
    numerators_N, denominators_N = (np.asarray(x, np.float64) for x in (numerators_N, denominators_N))
    numerator, denominator = numerators_N.sum(), denominators_N.sum()
    without_N = divide(numerator - numerators_N, denominator - denominators_N)
    return Estimate(float(divide(numerator, denominator)), without_N, limit)


def divide(numerator: np.ndarray | float, denominator: np.ndarray | float) -> np.ndarray:
    """numerator / denominator, nan where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    return np.asarray(numerator, np.float64) / np.where(denominator == 0, np.nan, denominator)
