"""Repetition inside a text: rep/l and seq-rep-n (Welleck et al. 2020, "Neural Text Generation with Unlikelihood
Training")."""

from __future__ import annotations

import numpy as np

from train.quality.estimate import Estimate, divide, ratio
from train.quality.ngrams import NGrams, Tokens


def repetition(tokens: Tokens, window: int) -> Estimate:
    """rep/l for l = `window`: the share of tokens that stand among the l tokens before them in their text, of all
    tokens of all texts; theirs is of the model's most likely token, or, as here, of the text itself.

    As in the authors' code each token has exactly l before it or, near the beginning, as many as there are, and the
    first, which can't be a repetition, counts in the denominator. A prompt is no part of it.
    """
    repeated = token_gaps(tokens) <= window
    return ratio(np.bincount(tokens.text_M, repeated, tokens.texts), tokens.lengths_N)


def token_gaps(tokens: Tokens) -> np.ndarray:
    """How many tokens back the same token last stood in its text, float64 [M]; infinite where it is the first."""
    keys_M = tokens.text_M * max(1, tokens.vocabulary) + tokens.code_M
    order = np.argsort(keys_M, kind="stable")
    gaps_M = np.full(len(keys_M), np.inf)
    same = keys_M[order[1:]] == keys_M[order[:-1]]
    gaps_M[order[1:][same]] = (order[1:] - order[:-1])[same]
    return gaps_M


def sequence_repetition(ngrams: NGrams) -> Estimate:
    """seq-rep-n: 1 - different n-grams / n-grams of a text, the mean over texts that have an n-gram."""
    types_N = ngrams.sum_by_text(np.ones(len(ngrams.text_P)))
    has_one_N = ngrams.lengths_N > 0
    return ratio(np.where(has_one_N, 1 - divide(types_N, ngrams.lengths_N), 0), has_one_N)
