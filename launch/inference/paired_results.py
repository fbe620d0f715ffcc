"""Compares two checkpoints' results of a task, example by example: accuracies, losses, F1, BLEU and chrF.

A result is the JSON object that a task keeps of an example: `task`, `index`, `prompt`, `answer` or `reference`, and
what its metric needs: `correct`, `chosen…`, `written`, `output`, `scores` with `tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from launch.inference.comparison import CONFIDENCE, RESAMPLES, Metric, compare, mcnemar, ratio

MOST_DIFFERENT = 3  # examples that are shown for each side
OUTPUTS = ("chosen", "output", "written", "scores", "correct")  # fields that say what a checkpoint made of an example


class Measure(NamedTuple):
    """The statistics of N examples under two checkpoints, float64 [N, K] each, and the metric of their sums."""

    run: np.ndarray
    other: np.ndarray
    metric: Metric = ratio


def read_results(path: str | Path) -> list[dict]:
    """The results in a file of JSON lines, in the order of their examples."""
    with open(path, encoding="utf-8") as lines:
        results = [json.loads(line) for line in lines]
    return sorted(results, key=lambda result: result["index"])


def compare_results(run: Sequence[dict], other: Sequence[dict]) -> dict:
    """Each metric as comparison.compare has it, by name; where answers are right or wrong, `only_run`, `only_other`:
    how many only one of them has right, and `mcnemar`: the test's exact p-value. `most_different`: the examples that
    speak most for each, with what both made of them.

    Raises DataError where the examples are not the same.
    """
    check_pairs(run, other)
    found: dict = {name: compare(*measure) for name, measure in measures(run, other).items()}
    if "correct" in run[0]:
        right = np.array([[mine["correct"], theirs["correct"]] for mine, theirs in zip(run, other, strict=True)], bool)
        only_run, only_other = int((right[:, 0] & ~right[:, 1]).sum()), int((right[:, 1] & ~right[:, 0]).sum())
        found |= {"only_run": only_run, "only_other": only_other, "mcnemar": mcnemar(only_run, only_other)}
    shown = {"examples": len(run), "most_different": most_different(run, other)}
    return found | shown | {"confidence": CONFIDENCE, "resamples": RESAMPLES}


def check_pairs(run: Sequence[dict], other: Sequence[dict]) -> None:
    """Raises DataError unless both have results of the same examples, in the same order."""
    name = run[0]["task"] if run else other[0]["task"] if other else "the task"
    if not run or len(run) != len(other):
        raise DataError(f"{name}: {len(run)} results against {len(other)}; score both on the same examples")
    for mine, theirs in zip(run, other, strict=True):
        same = [field for field in ("task", "index", "prompt", "answer", "reference") if field in mine]
        if any(mine[field] != theirs.get(field) for field in same):
            raise DataError(
                f"{name}: example {mine['index']} is not the same in both results; score both with the same task file"
            )


def measures(run: Sequence[dict], other: Sequence[dict]) -> dict[str, Measure]:
    """The measures that the fields of the results allow, by the names of the tasks' metrics."""
    fields, found = run[0].keys(), {}
    if "correct" in fields:
        found["accuracy"] = accuracy(run, other, lambda result: result["correct"])
    for field in sorted(fields):
        if field.startswith("chosen_"):
            found[f"accuracy{field.removeprefix('chosen')}"] = accuracy(run, other, matches(field))
    if "written" in fields:
        found["generation_accuracy"] = accuracy(run, other, matches("written"))
        found["macro_f1"] = macro_f1(run, other, "chosen")
        found["generation_macro_f1"] = macro_f1(run, other, "written")
    if "tokens" in fields:
        sides = (np.array([[-sum(r["scores"]), r["tokens"]] for r in side], float) for side in (run, other))
        found["loss"] = Measure(*sides)
    if "reference" in fields:
        found |= translation(run, other)
    return found


def matches(field: str):
    return lambda result: result[field] == result["answer"]


def accuracy(run: Sequence[dict], other: Sequence[dict], is_right) -> Measure:
    """The share of results that are right."""
    return Measure(*(np.array([[is_right(result), 1] for result in side], float) for side in (run, other)))


def macro_f1(run: Sequence[dict], other: Sequence[dict], field: str) -> Measure:
    """The mean F1 of the classes that stand in the truth or in the answers. None is an answer outside the classes."""
    labels = {result[key] for side in (run, other) for result in side for key in ("answer", field)}
    classes = sorted(labels - {None})

    def statistics(side: Sequence[dict]) -> np.ndarray:
        """Of each example and class: whether it is both, and how many of truth and answer it is. [N, 2 * classes]."""
        truth, own = (
            np.array([[r[key] == name for name in classes] for r in side], float) for key in ("answer", field)
        )
        return np.concatenate([truth * own, truth + own], axis=1)

    def metric(sums_RK: np.ndarray) -> np.ndarray:
        both, either = np.split(sums_RK, 2, axis=-1)
        return (2 * both / np.maximum(either, 1)).sum(-1) / (either > 0).sum(-1)

    return Measure(statistics(run), statistics(other), metric)


def translation(run: Sequence[dict], other: Sequence[dict]) -> dict[str, Measure]:
    """BLEU and chrF of all outputs together, by sacrebleu, from its statistics of each sentence."""
    from sacrebleu.metrics import BLEU, CHRF  # optional: only translations need it

    references = [[result["reference"] for result in run]]
    return {name: corpus_measure(metric(), run, other, references) for name, metric in (("bleu", BLEU), ("chrf", CHRF))}


def corpus_measure(metric, run: Sequence[dict], other: Sequence[dict], references: list[list[str]]) -> Measure:
    """A corpus metric of sacrebleu. It has no public way from the statistics of sentences to a score."""

    def statistics(side: Sequence[dict]) -> np.ndarray:
        outputs = [result["output"] or "" for result in side]
        return np.array(metric._extract_corpus_statistics(outputs, references), float)

    def score(sums_RK: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(sums_RK).tolist()
        return np.array([metric._compute_score_from_stats(row).score for row in rows]).reshape(sums_RK.shape[:-1])

    return Measure(statistics(run), statistics(other), score)


def most_different(run: Sequence[dict], other: Sequence[dict]) -> dict[str, list[dict]]:
    """The examples that speak most for each: those that only one has right, in their order, or those whose sentences'
    chrF differ most."""
    field = "correct" if "correct" in run[0] else "chrf"
    differences = np.array([float(mine[field]) - float(theirs[field]) for mine, theirs in zip(run, other, strict=True)])
    found = {}
    for side, sign in (("run", 1), ("other", -1)):
        order = np.argsort(-sign * differences, kind="stable")
        numbers = order[sign * differences[order] > 0][:MOST_DIFFERENT].tolist()
        found[side] = [paired_example(run[number], other[number]) for number in numbers]
    return found


def paired_example(mine: dict, theirs: dict) -> dict:
    """An example with what both checkpoints made of it; choices by their texts."""

    def named(result: dict, fields: Sequence[str]) -> dict:
        own = {name: result[name] for name in fields if name in result}
        numbers = ("answer", "chosen") if "choices" in result else ()
        return {name: result["choices"][x] if name in numbers else x for name, x in own.items()}

    of = named(mine, ("index", "prompt", "answer", "reference"))
    return of | {"run": named(mine, OUTPUTS), "other": named(theirs, OUTPUTS)}
