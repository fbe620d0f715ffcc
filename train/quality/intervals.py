"""Intervals of measures of texts, by the jackknife.

Not the bootstrap: a text drawn twice is, to distinct-n, one that says nothing new and, to self-BLEU, one that has its
equal among its references. Leaving texts out makes no such pairs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from train.quality.estimate import Estimate
from train.quality.proportion import wilson_interval

CONFIDENCE = 0.95
FEWEST = 20  # texts: with fewer there is no interval, as in launch/inference/comparison.py


def interval(estimate: Estimate, confidence: float = CONFIDENCE) -> list[float] | None:
    """[low, high] that holds, with that probability, the mean of a measure over all samples of as many texts as these
    (not its value for endless text, which distinct-n, entropy, Zipf's exponent and self-BLEU have a bias from). None
    with fewer than FEWEST texts, or where the measure is nan, of all texts or without one of them.

    With no bounds, as Zipf's exponent: value ± t * standard error, t of Student with N - 1 degrees of freedom (Tukey
    1958). Between 0 and a limit: Wilson's score interval at the effective sample size (Dean and Pagano 2015, for
    surveys), the number of independent draws of a proportion that would have this standard error; so it is Wilson's own
    for the share of texts that loop, stays inside, and is as long towards the middle as a rate needs that few texts
    make. Where no text differs from another, as many draws as there are texts.

    Of 100 samples of 50, 100 and 200 passages of novels it held the mean in 87% at least (seq-rep-4 of 50), over the
    measures in 94 to 95%; where 10 or 60% of the texts loop, in 90% at least. Not where 2% do, so that a sample has one
    loop or none: with 50 texts in 49% (4-gram entropy), 60% (seq-rep-4), 62% (distinct-4), with 100 in 81 to 86%; that
    of the loop rate holds there. No interval knows of what happens less than once in a sample. Self-BLEU's error is up
    to 1.3 times too great. By hand: PYTHONPATH=. python tests/train/interval_coverage.py 100 FOLDER_OF_NOVELS
    """
    texts = len(estimate.without_N)
    if texts < FEWEST or not np.isfinite([estimate.value, *estimate.without_N]).all():
        return None
    t = float(stdtrit(texts - 1, (1 + confidence) / 2))
    return interval_of(estimate.value, standard_error(estimate), estimate.limit, texts, t)


def standard_error(estimate: Estimate) -> float:
    """The jackknife's standard error of a measure of N texts: the root of (N - 1) / N * the sum of squares of the
    values without one text about their mean (Tukey 1958). In the mean its square is no less than the variance of the
    measure of N - 1 texts, whatever the measure, where texts are drawn alike and apart (Efron and Stein 1981)."""
    texts = len(estimate.without_N)
    return math.sqrt((texts - 1) / texts * np.square(estimate.without_N - estimate.without_N.mean()).sum())


def interval_of(value: float, error: float, limit: float, texts: int, t: float) -> list[float]:
    """The interval of a measure between 0 and `limit` (or infinite: no bounds) with that standard error."""
    if math.isinf(limit):
        return [value - t * error, value + t * error]
    if limit == 0:
        return [0.0, 0.0]
    share = min(1.0, max(0.0, value / limit))
    draws = effective_draws(share, error / limit, texts)
    return [limit * bound for bound in wilson_interval(share * draws, draws, t)]


def effective_draws(share: float, error: float, texts: int) -> float:
    """How many independent draws of a proportion would have that standard error; where it is 0, as many as texts."""
    variance = share * (1 - share)
    return variance / error**2 if error > 0 and variance > 0 else texts
