"""Whether texts of a checkpoint are as repetitive and as diverse as what people wrote, and how far they are from it.

`skald quality RUN --gate` fails where they are not; train/listeners/human_distance.py stops training on the distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.quality.diversity import estimates, length_matched
from train.quality.human import human_measures, joint_intervals

GATED = ("seq_rep_4", "rep_16", "rep_32", "rep_128", "zipf")
GATED += ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "entropy", "entropy_4")
LEVEL = 0.95  # so often, at least, every measure of other texts of people lies in its interval
SHORT = 0.5  # of the human texts' length: texts whose matched length is less end too early to be compared
FARTHEST = 100.0  # reaches of its interval that a measure counts for at most, and where it is not defined


@dataclass(frozen=True)
class HumanIntervals:
    """What `count` human texts of `length` tokens span, by measure: the value of these (`centres`), and the interval
    that those of as many others fall in."""

    centres: dict[str, float]
    intervals: dict[str, list[float]]
    length: int
    count: int

    def interval(self, name: str) -> list[float]:
        """[low, high]"""
        return self.intervals[name]

    def deviations(self, values: Mapping[str, float]) -> dict[str, float]:
        """How far each measure lies from the human one, as a share of the interval's reach to that side: up to 1 inside
        of it. FARTHEST at most, and where a value is nan, as Zipf's exponent of one word again and again."""
        return {name: self.deviation(name, values[name]) for name in self.intervals}

    def deviation(self, name: str, value: float) -> float:
        centre, (low, high) = self.centres[name], self.intervals[name]
        if math.isnan(value):
            return FARTHEST
        reach = high - centre if value > centre else centre - low
        return min(FARTHEST, abs(value - centre) / reach) if reach else FARTHEST * (value != centre)

    def distance(self, values: Mapping[str, float]) -> float:
        """The root mean square of all `deviations`: 0 is human text itself, and 1 as far as its borders."""
        return math.sqrt(np.mean(np.square(list(self.deviations(values).values()))))


def human_intervals(texts: Sequence[np.ndarray], level: float = LEVEL) -> HumanIntervals:
    """The intervals of as many other texts that people wrote, as long as these: int [t] each, all of one length.

    All measures of such texts lie in them at once in a share `level` of cases, at least (human.joint_intervals). They
    narrow as texts become more.

    Raises ValueError where texts are too few to have a spread, or too short for a measure.
    """
    found = human_measures(texts, len(texts), GATED)
    if undefined := [name for name, human in found.items() if not math.isfinite(human.value)]:
        raise ValueError(
            f"human texts of {len(texts[0])} tokens are too short for {', '.join(undefined)}; take longer ones"
        )
    centres = {name: human.value for name, human in found.items()}
    return HumanIntervals(centres, joint_intervals(found, level), len(texts[0]), len(texts))


def gate(texts: Sequence[np.ndarray], human_texts: Sequence[np.ndarray], level: float = LEVEL) -> dict:
    """Whether every measure of a checkpoint's texts lies in the interval that human texts span.

    Both are cut to equal numbers and lengths first (`length_matched`). Returns `passed`; `measures`, by name `value`,
    `interval` and `inside`; `distance` (HumanIntervals.distance); `texts` and `tokens`, the number and the length of
    those that were compared; `human_tokens`, what people's have; `too_short`; `level`. A value that is not defined is
    None, and not inside. Texts that end before SHORT of people's length do not pass, whatever their beginnings are
    like. Raises ValueError.
    """
    human_tokens = length_matched({"human": human_texts}).length
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
    too_short = matched.length < SHORT * human_tokens
    return {
        "passed": not too_short and all(measure["inside"] for measure in measures.values()),
        "too_short": too_short,
        "measures": measures,
        "distance": human.distance(values),
        "texts": matched.count,
        "tokens": matched.length,
        "human_tokens": human_tokens,
        "level": level,
    }


def describe_failure(result: dict) -> str:
    """A line that says why a `gate` is not passed: texts that end early, or the measures that left their intervals, the
    values and the intervals."""
    if result["too_short"]:
        return (
            f"ends its texts too early to be compared: a tenth of them or more before token {result['tokens'] + 1}; "
            f"people's have {result['human_tokens']}"
        )
    left = [
        f"{name} is {'undefined' if measure['value'] is None else format(measure['value'], '.4g')} "
        f"({measure['interval'][0]:.4g} to {measure['interval'][1]:.4g})"
        for name, measure in result["measures"].items()
        if not measure["inside"]
    ]
    return f"left the interval that {result['texts']} human texts of {result['tokens']} tokens span: {', '.join(left)}"
