"""Distinct-n: the share of n-grams that are different (Li et al. 2016, "A Diversity-Promoting Objective Function for
Neural Conversation Models")."""

from __future__ import annotations

import numpy as np

from train.quality.estimate import Estimate, divide
from train.quality.ngrams import NGrams


def distinct(ngrams: NGrams) -> Estimate:
    """Different n-grams of all texts together / n-grams of all texts, 0 to 1.

    It falls as texts become more or longer: compare it at equal numbers and lengths only. Holtzman et al.'s script
    distinct_n.py counts the n-grams that stand there exactly once, which is another measure.
    """
    holders_C = np.bincount(ngrams.type_P, minlength=ngrams.types)
    only_here_N = ngrams.sum_by_text(holders_C[ngrams.type_P] == 1)
    total = ngrams.lengths_N.sum()
    without_N = divide(ngrams.types - only_here_N, total - ngrams.lengths_N)
    return Estimate(float(divide(ngrams.types, total)), without_N)
