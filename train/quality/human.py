"""What human text measures, and how far a sample of it of a given size strays: the yardstick of gate.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from train.quality import diversity
from train.quality.diversity import MEASURES
from train.quality.intervals import CONFIDENCE, FEWEST, effective_draws, standard_error

MOST_SAMPLES = 20  # that a measure's mean is taken over
SEED = 0
ROUNDING = 1e-12  # nearer to 0 or 1 than this is 0 or 1: human text without any repetition is inside


class Human(NamedTuple):
    """A measure of human text in samples of `sample_size` texts: its mean over `samples` of them that share no text
    (`value`), and the standard error of one (`error`). `limit`: as in Estimate."""

    value: float
    error: float
    limit: float
    samples: int
    sample_size: int


def human_measures(
    texts: Sequence[np.ndarray], sample_size: int, measures: Sequence[str] = tuple(MEASURES)
) -> dict[str, Human]:
    """Measures of human text, as they are in samples of `sample_size` texts. The texts are dealt into as many such
    samples as they fill, MOST_SAMPLES at most, in an order of a fixed seed; what is over is left out.

    They should be cut to the length of the texts they are compared with (diversity.length_matched), and not overlap.
    Raises ValueError where they are fewer than `sample_size`, or that is below FEWEST.
    """
    if not FEWEST <= sample_size <= len(texts):
        raise ValueError(
            f"samples of {sample_size} from {len(texts)} human texts; at least {FEWEST} a sample are needed, and as "
            "many texts as a sample has"
        )
    samples = min(MOST_SAMPLES, len(texts) // sample_size)
    dealt = np.random.default_rng(SEED).permutation(len(texts))[: samples * sample_size].reshape(samples, sample_size)
    found = [diversity.estimates([texts[i] for i in sample], measures) for sample in dealt]
    return {name: over_samples([estimates[name] for estimates in found]) for name in measures}


def over_samples(estimates: Sequence[diversity.Estimate]) -> Human:
    errors = [standard_error(estimate) for estimate in estimates]
    value = float(np.mean([estimate.value for estimate in estimates]))
    error = float(np.sqrt(np.mean(np.square(errors))))
    return Human(value, error, estimates[0].limit, len(estimates), len(estimates[0].without_N))


def joint_intervals(found: Mapping[str, Human], confidence: float = CONFIDENCE) -> dict[str, list[float]]:
    """Of each measure the interval that another sample of such texts falls in; it falls in all of them at once with
    probability `confidence`, or more, since each is taken at 1 - (1 - confidence) / measures (Bonferroni).

    Passages of novels, 100 trials each: samples of 50, 100, 100, 200 by 1, 1, 5, 4 others fell in all 13 intervals in
    94, 96, 91, 95%; had each interval been of 95% alone, in 71, 71, 67, 70%. How: tests/train/interval_coverage.py. It
    speaks of passages drawn from the same texts, not of other authors.
    """
    each = 1 - (1 - confidence) / len(found)
    return {name: prediction_interval(human, each) for name, human in found.items()}


def prediction_interval(human: Human, confidence: float = CONFIDENCE) -> list[float]:
    """[low, high] that the measure of a new sample falls in. It differs from the mean of B samples by a variance of
    1 + 1/B times its own.

    With no bounds: value ± t * error * sqrt(1 + 1/B). Between 0 and a limit: all values that the score test of two
    proportions does not tell from the mean (Krishnamoorthy and Peng 2011), at the effective sample size as in
    intervals.py, so that it stays inside and has a width where no human text repeats anything.
    """
    t = float(stdtrit(human.samples * human.sample_size - 1, (1 + confidence) / 2))
    if math.isinf(human.limit):
        half = t * human.error * math.sqrt(1 + 1 / human.samples)
        return [human.value - half, human.value + half]
    if human.limit == 0 or math.isnan(human.value):
        return [human.value, human.value]
    share = min(1.0, max(0.0, human.value / human.limit))
    draws = effective_draws(share, human.error / human.limit, human.sample_size)
    return [human.limit * bound for bound in not_told_apart(share, draws, human.samples, t)]


def not_told_apart(share: float, draws: float, samples: int, t: float) -> list[float]:
    """The least and the greatest proportion y of `draws` that are at most t standard errors from `share` of `draws *
    samples`, the error being that of both pooled: (y - share)^2 = t^2 r (1 - r) (1 + 1/samples) / draws, where r is the
    mean of share and y, the first weighing as many times as much as there are samples. A quadratic equation in y."""
    old, new = samples / (samples + 1), 1 / (samples + 1)
    scale = t * t * (1 + 1 / samples) / draws
    a = 1 + scale * new**2
    b = -2 * share - scale * new + 2 * scale * old * new * share
    c = share**2 - scale * old * share + scale * old**2 * share**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    low, high = (-b - root) / (2 * a), (-b + root) / (2 * a)
    return [low if low > ROUNDING else 0.0, high if high < 1 - ROUNDING else 1.0]
