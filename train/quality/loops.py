"""Loops: texts that end in one phrase over and over (Holtzman et al. 2020, "The Curious Case of Neural Text
Degeneration", table 1: greedy decoding 73.66%, human text 0.28%)."""

from __future__ import annotations

import numpy as np

from train.quality.estimate import Estimate, ratio
from train.quality.ngrams import Tokens

PHRASE, TIMES = 2, 3


def loop_rate(tokens: Tokens) -> Estimate:
    """The share of texts that end in a loop, 0 to 1."""
    return ratio(ends_in_loop(tokens), np.ones(tokens.texts))


def ends_in_loop(tokens: Tokens) -> np.ndarray:
    """Whether each text ends in "a phrase (minimum length 2) repeated at least three times at the end" (Holtzman et
    al. 2020, table 1), bool [N]: its last 3 n tokens have period n, for an n >= 2. One token six times over is the
    phrase of it twice, three times.

    The authors' script repetition.py looks at the end of the text too, and counts what its paper does not say: of the
    phrases of 1 to 90 tokens it takes the one that stands there most often, and calls the text repetitive where that
    is twice or more and the phrase has three tokens or more, or where it is more than 50 times.
    """
    right_NT = right_aligned(tokens)
    texts, width = right_NT.shape
    loops_N = np.zeros(texts, bool)
    for phrase in range(PHRASE, width // TIMES + 1):
        tail = right_NT[:, width - TIMES * phrase :]
        loops_N |= (tail[:, phrase:] == tail[:, :-phrase]).all(1)
    return loops_N


def right_aligned(tokens: Tokens) -> np.ndarray:
    """The texts as rows that end together, int [N, longest]; before a text stand numbers that equal no other."""
    width = int(tokens.lengths_N.max(initial=0))
    rows_NT = np.tile(-1 - np.arange(width), (tokens.texts, 1))
    ends_N = np.cumsum(tokens.lengths_N)
    column_M = np.arange(len(tokens.code_M)) - ends_N[tokens.text_M] + width
    rows_NT[tokens.text_M, column_M] = tokens.code_M
    return rows_NT
