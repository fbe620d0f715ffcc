"""Where rows start: each way of cutting rows is a function from row numbers to places in the joined documents.

data/pipeline.py gathers the tokens. A row of T tokens reads T + 1 of them: the last one is only a target.
"""

from __future__ import annotations

import numpy as np

from data import permutation
from data.errors import DataError
from data.store import Store

ORDER, WINDOWS, DOCUMENTS = 1, 2, 3  # purposes of keys, so that no two draws share one


class Windows:
    """Row r starts anywhere in the text, drawn with replacement (nanoGPT: randint(len(data) - length))."""

    def __init__(self, store: Store, length: int, seed: int):
        self.store, self.key = store, permutation.key(seed, WINDOWS)
        self.starts = len(store.tokens) - length
        enough(store, length)

    def places(self, rows: np.ndarray, length: int) -> np.ndarray:
        """int64 [rows, length + 1]: indices into the store's tokens."""
        with np.errstate(over="ignore"):
            drawn = permutation.mixed(self.key + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        starts = (drawn % np.uint64(self.starts)).astype(np.int64)
        return starts[:, None] + np.arange(length + 1)


class Concatenate:
    """Documents, permuted once, are joined and cut into rows; each epoch takes all rows in an order of its own.

    An epoch starts `offset` tokens into the text, so that borders between rows fall elsewhere each time.
    """

    def __init__(self, store: Store, length: int, seed: int):
        self.store, self.seed = store, seed
        enough(store, length)
        self.per_epoch = (len(store.tokens) - 1) // length
        order = permutation.permuted(np.arange(store.documents), store.documents, permutation.key(seed, DOCUMENTS))
        lengths = np.diff(store.offsets)[order]
        self.ends = np.cumsum(lengths)  # of each document, in the permuted text
        self.moved = store.offsets[:-1][order] - (self.ends - lengths)  # from permuted place to stored place

    def places(self, rows: np.ndarray, length: int) -> np.ndarray:
        epochs, rows = np.divmod(rows.astype(np.int64), self.per_epoch)
        spare = len(self.store.tokens) - 1 - self.per_epoch * length
        starts = np.empty_like(rows)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            key = permutation.key(self.seed, ORDER, int(epoch))
            offset = int(key % np.uint64(spare + 1))
            starts[mine] = permutation.permuted(rows[mine], self.per_epoch, key) * length + offset
        places = starts[:, None] + np.arange(length + 1)
        return places + self.moved[np.searchsorted(self.ends, places, side="right")]


def enough(store: Store, length: int) -> None:
    if len(store.tokens) < length + 1:
        raise DataError(
            f"{store.manifest['source_path']}: {len(store.tokens)} tokens are fewer than a row of data.length={length} "
            f"and its last target; data.length={max(1, len(store.tokens) - 1)} would fit"
        )


PACKINGS = {"windows": Windows, "concatenate": Concatenate}
