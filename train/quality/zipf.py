"""Zipf's exponent: how steeply frequency falls with rank (Zipf 1949; as measured by Holtzman et al. 2020, "The Curious
Case of Neural Text Degeneration", table 1: 0.93 for human text)."""

from __future__ import annotations

import numpy as np

from train.quality.estimate import Estimate
from train.quality.ngrams import NGrams

RANKS = 5_000  # Holtzman et al.'s script zipf.py


def zipf(unigrams: NGrams) -> Estimate:
    """s of frequency ~ rank^-s over the tokens of all texts: minus the slope of the least-squares line of log frequency
    on log rank, each rank from 1 to RANKS (or the last there is) weighing the same.

    So the many ranks of tokens seen once weigh most, and s grows with the amount of text: compare it at equal numbers
    and lengths only. nan where there are fewer than two different tokens.
    """
    without_N = np.empty(unigrams.texts)
    by_text = np.argsort(unigrams.text_P, kind="stable")
    pairs_of_text = np.split(by_text, np.searchsorted(unigrams.text_P[by_text], np.arange(1, unigrams.texts)))
    for text, pairs in enumerate(pairs_of_text):
        left_C = unigrams.totals_C.copy()
        left_C[unigrams.type_P[pairs]] -= unigrams.count_P[pairs]
        without_N[text] = exponent(left_C)
    return Estimate(exponent(unigrams.totals_C), without_N, np.inf)


def exponent(counts_C: np.ndarray, ranks: int = RANKS) -> float:
    """Zipf's exponent of the counts of types, in any order; those of 0 are left out."""
    frequencies = np.sort(counts_C[counts_C > 0])[::-1][:ranks]
    if len(frequencies) < 2:
        return float("nan")
    log_rank = np.log(np.arange(1, len(frequencies) + 1))
    centred = log_rank - log_rank.mean()
    return float(-(centred @ np.log(frequencies)) / (centred @ centred))
