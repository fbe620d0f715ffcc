"""Ways to cut rows from documents: each class maps indices of rows to indices of tokens in the joined documents.

data/pipeline.py gathers the tokens. A row of T tokens reads T + 1 of them: the last one is only a target.
"""

from __future__ import annotations

import numpy as np

from data import permutation
from data.documents import Documents
from data.errors import DataError

ROW_ORDER, WINDOW_STARTS, DOCUMENT_ORDER = 1, 2, 3  # a key's purpose is part of it, so that no two draws share a key


class RandomWindows:
    """Every row starts at a token drawn at random, with replacement (nanoGPT: randint(len(data) - length))."""

    def __init__(self, documents: Documents, length: int, seed: int):
        self.key = permutation.derive_key(seed, WINDOW_STARTS)
        self.start_count = len(documents.tokens) - length

    def token_indices(self, rows: np.ndarray, length: int) -> np.ndarray:
        """int64 [rows, length + 1]: for each index in `rows`, the indices of its tokens in `documents.tokens`."""
        with np.errstate(over="ignore"):
            random_bits = permutation.splitmix64(self.key + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        starts = (random_bits % np.uint64(self.start_count)).astype(np.int64)
        return starts[:, None] + np.arange(length + 1)


class Concatenate:
    """The documents are permuted once, joined and cut into rows; each epoch takes all rows in an order of its own.

    Each epoch skips a random number of tokens at the beginning, so that the borders between its rows fall elsewhere.
    """

    def __init__(self, documents: Documents, length: int, seed: int):
        self.seed, self.token_count = seed, len(documents.tokens)
        self.rows_per_epoch = (self.token_count - 1) // length
        count = len(documents.offsets) - 1
        order = permutation.permute(np.arange(count), count, permutation.derive_key(seed, DOCUMENT_ORDER))
        lengths = np.diff(documents.offsets)[order]
        self.ends = np.cumsum(lengths)  # of each document, in the permuted text
        shifts = documents.offsets[:-1][order] - (self.ends - lengths)  # from permuted index to stored index
        self.shifts = np.append(shifts, 0)  # the token behind the last document, if there is one, is not moved

    def token_indices(self, rows: np.ndarray, length: int) -> np.ndarray:
        """int64 [rows, length + 1]: for each index in `rows`, the indices of its tokens in `documents.tokens`."""
        epochs, rows = np.divmod(rows.astype(np.int64), self.rows_per_epoch)
        leftover = self.token_count - 1 - self.rows_per_epoch * length
        starts = np.empty_like(rows)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            key = permutation.derive_key(self.seed, ROW_ORDER, int(epoch))
            offset = int(key % np.uint64(leftover + 1))
            starts[in_epoch] = permutation.permute(rows[in_epoch], self.rows_per_epoch, key) * length + offset
        indices = starts[:, None] + np.arange(length + 1)
        return indices + self.shifts[np.searchsorted(self.ends, indices, side="right")]


def check_length(documents: Documents, length: int, origin: str) -> None:
    """Raises DataError where the documents have too few tokens to fill a row."""
    tokens = len(documents.tokens)
    if tokens < length + 1:
        raise DataError(
            f"{origin}: {tokens} tokens are fewer than a row of data.length={length} and its last target; "
            f"data.length={max(1, tokens - 1)} would fit"
        )


PACKINGS = {"windows": RandomWindows, "concatenate": Concatenate}
