"""The measures of diversity and repetition of one setting's texts, together: what launch/quality/ and the gate call.

Texts of several settings are cut to equal numbers and lengths first (`length_matched`), since most of these measures
depend on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.quality.distinct import distinct
from train.quality.entropy import entropy
from train.quality.estimate import Estimate
from train.quality.intervals import interval
from train.quality.loops import loop_rate
from train.quality.ngrams import NGrams, Tokens
from train.quality.repetition import repetition, sequence_repetition
from train.quality.self_bleu import self_bleu
from train.quality.zipf import zipf

LONGEST = 4  # order of n-grams


class Measure(NamedTuple):
    """A measure's `title` and `unit` for people, what it says in a sentence (`about`), and how it is computed, of the
    tokens and the n-grams of order 1 to LONGEST."""

    title: str
    unit: str
    about: str
    estimate: Callable[[Tokens, list[NGrams]], Estimate]


def distinct_n(n: int) -> Measure:
    about = f"different {n}-grams / {n}-grams of all texts (Li et al. 2016)"
    return Measure(f"distinct-{n}", "share", about, lambda tokens, orders: distinct(orders[n - 1]))


def repetition_in(window: int) -> Measure:
    about = f"tokens that stand among the {window} before them in their text (Welleck et al. 2020)"
    return Measure(f"rep/{window}", "share", about, lambda tokens, orders: repetition(tokens, window))


ENTROPY = "entropy of the distribution of {} over all texts (Zhang et al. 2018)"
MEASURES = {
    **{f"distinct_{n}": distinct_n(n) for n in range(1, LONGEST + 1)},
    "entropy": Measure("entropy", "bits", ENTROPY.format("tokens"), lambda tokens, orders: entropy(orders[0])),
    "entropy_4": Measure(
        "4-gram entropy", "bits", ENTROPY.format("4-grams"), lambda tokens, orders: entropy(orders[3])
    ),
    "zipf": Measure(
        "Zipf exponent",
        "",
        "how steeply frequency falls with rank, over the first 5,000 (Holtzman et al. 2020)",
        lambda tokens, orders: zipf(orders[0]),
    ),
    **{f"rep_{window}": repetition_in(window) for window in (16, 32, 128)},
    "seq_rep_4": Measure(
        "seq-rep-4",
        "share",
        "4-grams of a text that stood in it before, mean over texts (Welleck et al. 2020)",
        lambda tokens, orders: sequence_repetition(orders[3]),
    ),
    "loop_rate": Measure(
        "loops",
        "share",
        "texts that end in a phrase of 2 tokens or more, three times or more (Holtzman et al. 2020)",
        lambda tokens, orders: loop_rate(tokens),
    ),
    "self_bleu": Measure(
        "self-BLEU",
        "share",
        "BLEU-4 of a text with all others as references, mean over texts (Zhu et al. 2018)",
        lambda tokens, orders: self_bleu(orders),
    ),
}


def measure(texts: Sequence[np.ndarray]) -> dict[str, float]:
    """Every measure of MEASURES over the texts of one setting, int [t] each. nan where one is not defined: where there
    is no n-gram of that order, fewer than two different tokens (Zipf), fewer than two texts (self-BLEU)."""
    return {name: estimate.value for name, estimate in estimates(texts).items()}


def estimates(texts: Sequence[np.ndarray], measures: Sequence[str] = tuple(MEASURES)) -> dict[str, Estimate]:
    """Measures with what they are when any one text is left out: train/quality/intervals.py makes intervals of them."""
    tokens = Tokens(texts)
    orders = tokens.ngrams(LONGEST)
    return {name: MEASURES[name].estimate(tokens, orders) for name in measures}


def measure_with_intervals(texts: Sequence[np.ndarray]) -> dict[str, tuple[float, list[float] | None]]:
    """Every measure of MEASURES: its value and its interval, which train/quality/intervals.py defines."""
    return {name: (estimate.value, interval(estimate)) for name, estimate in estimates(texts).items()}


class LengthMatched(NamedTuple):
    """Texts of settings cut to equal numbers and lengths: `texts` by setting, each of `length` tokens, `count` of them;
    `indices`: where each stood among its setting's texts."""

    texts: dict[str, list[np.ndarray]]
    indices: dict[str, list[int]]
    length: int
    count: int


def length_matched(
    settings: Mapping[str, Sequence[np.ndarray]], length: int | None = None, share: float = 0.9
) -> LengthMatched:
    """The first `length` tokens of the texts of every setting that have as many, and of these as many as the setting
    with the fewest has, the first ones. `length` None: the greatest that at least `share` of the texts of every setting
    have.

    Raises ValueError where a setting has no text of that length, with its name.
    """
    lengths = {name: np.array([len(text) for text in texts]) for name, texts in settings.items()}
    if length is None:
        length = min(length_of_share(each, share) for each in lengths.values())
    long_enough = {name: np.flatnonzero(each >= max(1, length)).tolist() for name, each in lengths.items()}
    count = min(len(indices) for indices in long_enough.values())
    if count == 0:
        short = next(name for name, indices in long_enough.items() if not indices)
        raise ValueError(
            f"no text of setting {short} has {max(1, length)} tokens; measure it apart, or choose a length"
        )
    indices = {name: found[:count] for name, found in long_enough.items()}
    texts = {name: [np.asarray(settings[name][i])[:length] for i in found] for name, found in indices.items()}
    return LengthMatched(texts, indices, length, count)


def length_of_share(lengths_N: np.ndarray, share: float) -> int:
    """The greatest length that at least `share` of these have; 0 where there are none."""
    enough = max(1, math.ceil(round(share * len(lengths_N), 9)))
    return int(np.sort(lengths_N)[-enough]) if len(lengths_N) else 0
