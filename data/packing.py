"""Where rows start: each way of cutting rows is a function from row numbers to places in the joined documents.

data/pipeline.py gathers the tokens. A row of T tokens reads T + 1 of them: the last one is only a target.
"""

from __future__ import annotations

import numpy as np

from data import permutation
from data.documents import Documents
from data.errors import DataError

ORDER, WINDOWS, DOCUMENTS = 1, 2, 3  # purposes of keys, so that no two draws share one


class RandomWindows:
    """Row r starts anywhere in the text, drawn with replacement (nanoGPT: randint(len(data) - length))."""

    def __init__(self, documents: Documents, length: int, seed: int):
        self.key = permutation.key(seed, WINDOWS)
        self.starts = len(documents.tokens) - length

    def token_indices(self, rows: np.ndarray, length: int) -> np.ndarray:
        """int64 [rows, length + 1]: indices into the documents' tokens."""
        with np.errstate(over="ignore"):
            drawn = permutation.splitmix64(self.key + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        starts = (drawn % np.uint64(self.starts)).astype(np.int64)
        return starts[:, None] + np.arange(length + 1)


class Concatenate:
    """Documents, permuted once, are joined and cut into rows; each epoch takes all rows in an order of its own.

    An epoch starts `offset` tokens into the text, so that borders between rows fall elsewhere each time.
    """

    def __init__(self, documents: Documents, length: int, seed: int):
        self.seed, self.tokens = seed, len(documents.tokens)
        self.per_epoch = (self.tokens - 1) // length
        count = len(documents.offsets) - 1
        order = permutation.permute(np.arange(count), count, permutation.key(seed, DOCUMENTS))
        lengths = np.diff(documents.offsets)[order]
        self.ends = np.cumsum(lengths)  # of each document, in the permuted text
        moved = documents.offsets[:-1][order] - (self.ends - lengths)  # from permuted place to stored place
        self.moved = np.append(moved, 0)  # what stands behind the last document stays there

    def token_indices(self, rows: np.ndarray, length: int) -> np.ndarray:
        epochs, rows = np.divmod(rows.astype(np.int64), self.per_epoch)
        spare = self.tokens - 1 - self.per_epoch * length
        starts = np.empty_like(rows)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            key = permutation.key(self.seed, ORDER, int(epoch))
            offset = int(key % np.uint64(spare + 1))
            starts[mine] = permutation.permute(rows[mine], self.per_epoch, key) * length + offset
        places = starts[:, None] + np.arange(length + 1)
        return places + self.moved[np.searchsorted(self.ends, places, side="right")]


def check_length(documents: Documents, length: int, origin: str) -> None:
    """Raises DataError where the documents do not fill a row."""
    tokens = len(documents.tokens)
    if tokens < length + 1:
        raise DataError(
            f"{origin}: {tokens} tokens are fewer than a row of data.length={length} and its last target; "
            f"data.length={max(1, tokens - 1)} would fit"
        )


PACKINGS = {"windows": RandomWindows, "concatenate": Concatenate}
