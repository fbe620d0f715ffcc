"""How often each n-gram stands in each text, as integer codes: what the measures of diversity count."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np


class Tokens:
    """The tokens of N texts, one text after the other: M in all.

    `code_M`: each token's number, 0 to `vocabulary` - 1, in the order of their ids. `text_M`: the text it stands in.
    `lengths_N`: the tokens of each text. Raises ValueError where a text is not a one-dimensional array of integers.
    """

    def __init__(self, texts: Sequence[np.ndarray]):
        arrays = [np.asarray(text) for text in texts]
        for number, array in enumerate(arrays):
            if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
                raise ValueError(f"text {number} is {array.dtype} {list(array.shape)}; a text is integers [t]")
        self.lengths_N = np.array([array.size for array in arrays], np.int64)
        together = np.concatenate([array.astype(np.int64) for array in arrays]) if arrays else np.zeros(0, np.int64)
        ids, self.code_M = np.unique(together, return_inverse=True)
        self.vocabulary = len(ids)
        self.text_M = np.repeat(np.arange(len(arrays)), self.lengths_N)

    @property
    def texts(self) -> int:
        return len(self.lengths_N)

    @cached_property
    def unigrams(self) -> NGrams:
        return NGrams(self.code_M, self.text_M, self.texts)

    def ngrams(self, longest: int) -> list[NGrams]:
        """Of order 1 to `longest`. The n-gram that begins at a token is the pair of the (n - 1)-gram there and the
        token after it; pairs are numbered by np.unique."""
        orders, code_M, text_M = [self.unigrams], self.code_M, self.text_M
        start_M = np.arange(len(code_M))
        for n in range(2, longest + 1):
            last_M = np.minimum(start_M + n - 1, len(self.code_M) - 1)
            inside = (self.text_M[last_M] == text_M) & (last_M == start_M + n - 1)
            start_M, text_M = start_M[inside], text_M[inside]
            pairs_M = code_M[inside] * self.vocabulary + self.code_M[last_M[inside]]
            code_M = np.unique(pairs_M, return_inverse=True)[1]
            orders.append(NGrams(code_M, text_M, self.texts))
        return orders


class NGrams:
    """The n-grams of one order in N texts: pairs of a type (a different n-gram, numbered from 0) and a text that holds
    it, ordered by type and then by text. `type_P`, `text_P`, `count_P`: int [P]. `types`: their number.

    `totals_C`: how often each type stands in all texts. `lengths_N`: the n-grams of each text.
    """

    def __init__(self, type_M: np.ndarray, text_M: np.ndarray, texts: int):
        keys_P, self.count_P = np.unique(type_M * texts + text_M, return_counts=True)
        self.type_P, self.text_P = np.divmod(keys_P, max(1, texts))
        self.texts, self.types = texts, int(self.type_P[-1]) + 1 if len(keys_P) else 0
        self.totals_C = np.bincount(self.type_P, self.count_P, self.types).astype(np.int64)
        self.lengths_N = np.bincount(self.text_P, self.count_P, texts).astype(np.int64)

    def sum_by_text(self, numbers_P: np.ndarray) -> np.ndarray:
        """The sum of a number of each pair over each text's pairs, float64 [N]."""
        return np.bincount(self.text_P, numbers_P, self.texts)
