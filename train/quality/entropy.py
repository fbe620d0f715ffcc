"""The entropy of the distribution of n-grams (Zhang et al. 2018, "Generating Informative and Diverse Conversational
Responses via Adversarial Information Maximization", Ent-n)."""

from __future__ import annotations

import numpy as np

from train.quality.estimate import Estimate, divide
from train.quality.ngrams import NGrams


def entropy(ngrams: NGrams) -> Estimate:
    """-sum over types of p log2 p, p = count / all n-grams, in bits.

    Of the n-grams that were seen, so it is at most log2 of their number and below that of the distribution they come
    from, by about (types - 1) / (2 ln 2 * n-grams) bits where each is seen often (Miller 1955): compare it at equal
    numbers and lengths only.
    """
    total, sum_C = ngrams.lengths_N.sum(), count_bits(ngrams.totals_C)
    left_P = ngrams.totals_C[ngrams.type_P] - ngrams.count_P
    sum_N = sum_C.sum() - ngrams.sum_by_text(sum_C[ngrams.type_P] - count_bits(left_P))
    limit = float(np.log2(max(1, total)))
    return Estimate(float(bits(sum_C.sum(), total)), bits(sum_N, total - ngrams.lengths_N), limit)


def count_bits(counts: np.ndarray) -> np.ndarray:
    """count * log2 count, 0 for 0."""
    return counts * np.log2(np.maximum(counts, 1))


def bits(sums: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """log2 total - sum / total: the entropy, from the sum of count * log2 count. Never below 0."""
    return np.maximum(np.log2(np.maximum(totals, 1)) - divide(sums, totals), 0)
