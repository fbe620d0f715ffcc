"""Statistics of right and wrong answers: accuracy with its interval, and macro-F1. metrics.py calls them."""

from __future__ import annotations

from collections.abc import Sequence

from train.quality.proportion import wilson_interval


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
