"""Statistics of right and wrong answers: the interval of an accuracy, and macro-F1. metrics.py calls them."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # of the normal distribution: 95% of it lies within so many standard deviations


def wilson_interval(correct: int, total: int, z: float = Z95) -> list[float]:
    """The score interval of a proportion: [low, high], at 95% by default (Wilson 1927; method 3 of Newcombe 1998).

    Unlike mean and standard error it stays between 0 and 1, and has a width where all answers are right.
    """
    p, z2 = correct / total, z * z / total
    centre, half = p + z2 / 2, z * math.sqrt(p * (1 - p) / total + z2 / (4 * total))
    low = 0.0 if correct == 0 else (centre - half) / (1 + z2)
    return [low, 1.0 if correct == total else (centre + half) / (1 + z2)]


def accuracy(correct: Sequence[bool]) -> dict:
    """The share of right answers, with its Wilson interval."""
    return {"accuracy": sum(correct) / len(correct), "accuracy_interval": wilson_interval(sum(correct), len(correct))}


def macro_f1(truth: Sequence[str], predicted: Sequence[str | None]) -> float:
    """The mean of every class's F1, 2 TP / (2 TP + FP + FN): each class weighs the same, however rare it is.

    As scikit-learn's `f1_score(average="macro")`, the classes are those that stand in either list: one that is in
    neither is left out, one that is never predicted rightly has 0. None is no class: an answer outside the set.
    """
    classes = sorted({label for label in [*truth, *predicted] if label is not None})
    pairs = list(zip(truth, predicted, strict=True))
    scores = []
    for label in classes:
        both = sum(true == label == own for true, own in pairs)
        either = sum((true == label) + (own == label) for true, own in pairs)
        scores.append(2 * both / either)
    return sum(scores) / len(scores)
