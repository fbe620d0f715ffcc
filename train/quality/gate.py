"""Whether texts of a checkpoint are as repetitive and as diverse as what people wrote, and how far they are from it.

`skald quality RUN --gate` fails where they are not; train/listeners/human_distance.py stops training on the distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from train.quality.diversity import estimates, length_matched
from train.quality.estimate import Estimate

GATED = ("seq_rep_4", "rep_16", "rep_32", "rep_128", "zipf")
GATED += ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "entropy", "entropy_4")
LEVEL = 0.95  # of all texts as people write them, in so many cases every measure lies in its interval
DRAWS = 20_000  # of the normal distribution, for the quantile of the greatest deviation
FARTHEST = 100.0  # half-widths that a measure counts for at most, and where it is not defined


@dataclass(frozen=True)
class HumanIntervals:
    """What `count` human texts of `length` tokens span, by measure: `centres` ± `half_widths`."""

    centres: dict[str, float]
    half_widths: dict[str, float]
    length: int
    count: int

    def interval(self, name: str) -> list[float]:
        """[low, high]; no measure is below 0."""
        centre, half = self.centres[name], self.half_widths[name]
        return [max(0.0, centre - half), centre + half]

    def deviations(self, values: Mapping[str, float]) -> dict[str, float]:
        """How far each measure lies from the human one, in half-widths: up to 1 inside the interval. FARTHEST at most,
        and where a value is nan, as Zipf's exponent of one word written again and again."""
        scaled = {name: abs(values[name] - centre) / self.half_widths[name] for name, centre in self.centres.items()}
        return {name: FARTHEST if math.isnan(x) else min(x, FARTHEST) for name, x in scaled.items()}

    def distance(self, values: Mapping[str, float]) -> float:
        """The root mean square of all `deviations`: 0 is human text itself, and 1 as far as its borders."""
        return math.sqrt(np.mean(np.square(list(self.deviations(values).values()))))


def human_intervals(texts: Sequence[np.ndarray], level: float = LEVEL) -> HumanIntervals:
    """The intervals that hold all measures at once, in a share `level` of cases, of as many other texts that people
    wrote, as long as these: int [t] each, all of one length.

    They are prediction intervals of the difference of two sets: centre ± q sqrt(2) s, where s is the jackknife's
    standard error of a measure (Efron & Tibshirani 1993, eq. 11.5) over texts, and q the quantile of the greatest
    |deviation| among measures as correlated as these (simultaneous intervals: Hothorn et al. 2008, section 3.2). So
    they narrow as texts become more. s is at least one token of all: texts may hold no repetition, others a single one.

    Raises ValueError where there are fewer than two texts, or where they are too short for a measure.
    """
    if len(texts) < 2:
        raise ValueError(f"{len(texts)} human texts: two at least have a spread; take more")
    found = estimates(texts, GATED)
    if undefined := [name for name, estimate in found.items() if not np.isfinite(estimate.without_N).all()]:
        raise ValueError(
            f"human texts of {len(texts[0])} tokens are too short for {', '.join(undefined)}; take longer ones"
        )
    influence_KN = np.stack([influence(estimate) for estimate in found.values()])
    errors_K = np.sqrt(np.square(influence_KN).sum(1))
    quantile = greatest_deviation(influence_KN, errors_K, level)
    half_K = quantile * math.sqrt(2) * np.maximum(errors_K, 1 / sum(map(len, texts)))
    return HumanIntervals(
        {name: estimate.value for name, estimate in found.items()},
        dict(zip(found, half_K.tolist(), strict=True)),
        len(texts[0]),
        len(texts),
    )


def influence(estimate: Estimate) -> np.ndarray:
    """How much each text moves a measure, float64 [N]: the sum of squares is the jackknife's variance."""
    deviation_N = estimate.without_N - estimate.without_N.mean()
    return deviation_N * math.sqrt((len(deviation_N) - 1) / len(deviation_N))


def greatest_deviation(influence_KN: np.ndarray, errors_K: np.ndarray, level: float) -> float:
    """The quantile `level` of max |Z| over K standard normal variables as correlated as measures to which N texts
    contribute so much; a measure without spread is correlated with none."""
    without_spread_K = errors_K == 0
    standardized_KN = influence_KN / np.where(without_spread_K, 1, errors_K)[:, None]
    mixed = np.concatenate([standardized_KN, np.diag(without_spread_K)], axis=1)
    draws = np.random.default_rng(0).standard_normal((DRAWS, mixed.shape[1]))
    return float(np.quantile(np.abs(draws @ mixed.T).max(1), level))


def gate(texts: Sequence[np.ndarray], human_texts: Sequence[np.ndarray], level: float = LEVEL) -> dict:
    """Whether every measure of a checkpoint's texts lies in the interval that human texts span.

    Both are cut to equal numbers and lengths first (`length_matched`). Returns `passed`; `measures`, by name `value`,
    `interval` and `inside`; `distance` (HumanIntervals.distance); `texts` and `tokens`, the number and the length of
    those that were compared; `level`. A value that is not defined is None, and not inside. Raises ValueError.
    """
    matched = length_matched({"human": human_texts, "model": texts})
    human = human_intervals(matched.texts["human"], level)
    values = {name: estimate.value for name, estimate in estimates(matched.texts["model"], GATED).items()}
    deviations = human.deviations(values)
    measures = {
        name: {
            "value": None if math.isnan(value) else value,
            "interval": human.interval(name),
            "inside": deviations[name] <= 1,
        }
        for name, value in values.items()
    }
    return {
        "passed": all(measure["inside"] for measure in measures.values()),
        "measures": measures,
        "distance": human.distance(values),
        "texts": matched.count,
        "tokens": matched.length,
        "level": level,
    }


def describe_failure(result: dict) -> str:
    """A line that names the measures of a `gate` that left their intervals, the values and the intervals."""
    left = [
        f"{name} is {'undefined' if measure['value'] is None else format(measure['value'], '.4g')} "
        f"({measure['interval'][0]:.4g} to {measure['interval'][1]:.4g})"
        for name, measure in result["measures"].items()
        if not measure["inside"]
    ]
    return f"left the interval that {result['texts']} human texts of {result['tokens']} tokens span: {', '.join(left)}"
