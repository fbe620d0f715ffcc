"""How far texts are from human text over several measures at once: for the recommended sampler and for the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from train.quality.human import Human, prediction_interval
from train.quality.proportion import Z95

FINEST = 1e-3  # of a measure's value: a spread below that is none


class Distance(NamedTuple):
    """`total`: the root mean square of the differences `by_measure`, each in standard errors of human text, positive
    where the texts measure more. Infinite where a measure is nan."""

    total: float
    by_measure: dict[str, float]


def distance(values: Mapping[str, float], human: Mapping[str, Human]) -> Distance:
    """The distance of a setting's `values` from human text, over the measures that `human` has.

    The unit of a measure is how far a sample of human text of that size strays to that side: where it falls with 95%
    is 1.96 units wide on each, so a measure inside its interval of 95% has at most 1.96. Human samples have a total of
    about 1; it grows with the root of the sample size for texts that differ, so it compares at one size only. Measures
    weigh the same, though some say much the same thing (distinct-2 and distinct-3): choose which to give.
    """
    by_measure = {name: difference(values[name], of_human) for name, of_human in human.items()}
    total = math.sqrt(sum(each * each for each in by_measure.values()) / len(by_measure))
    return Distance(total, by_measure)


def difference(value: float, human: Human) -> float:
    """In standard errors of human text to the side that `value` lies on. The interval of a bounded measure has a width
    though no human text differs from another; one of no bounds counts as FINEST of its value wide, at least."""
    if math.isnan(value) or math.isnan(human.value):
        return math.inf
    low, high = prediction_interval(human)
    reach = high - human.value if value > human.value else human.value - low
    unit = max(reach / Z95, FINEST * abs(human.value), FINEST**4)
    return (value - human.value) / unit
