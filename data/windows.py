"""Rows that score whole documents: windows in which every token counts once. train/evaluate.py sums their losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.documents import Documents
from data.errors import DataError
from data.rows import Rows, ScoredRows


class Window(NamedTuple):
    """One row of a document: it reads tokens[start:stop] and predicts tokens[start + 1 : stop + 1].

    Its first `overlap` targets counted in an earlier window. `has_end`: its last target is the document's end token.
    """

    start: int
    stop: int
    overlap: int
    has_end: bool


def scoring_rows(documents: Documents, length: int, stride: int, batch_size: int) -> Iterator[ScoredRows]:
    """Batches of `batch_size` rows that score documents in windows of `length` tokens, `stride` apart.

    Every token but each document's first counts as a target exactly once: where windows overlap, in the first of
    them. The last batch is filled up with rows of weight 0.
    """
    windows = [
        Window(
            start,
            min(start + length, stop - 1),
            overlap=0 if start == first else length - stride,
            has_end=documents.ended and start + length >= stop - 1,
        )
        for first, stop in documents.bounds
        for start in window_starts(first, stop, length, stride)
    ]
    for index in range(0, len(windows), batch_size):
        yield pad_windows(documents.tokens, windows[index : index + batch_size], length, batch_size)


def check_targets(documents: Documents, origin: str) -> None:
    """Raises DataError where documents have no target that stands for text: a document's first token is no target."""
    if np.diff(documents.bounds).max(initial=0) < 2 or not documents.bytes:
        raise DataError(f"{origin}: nothing to score; give a text of two tokens or more in one document")


def window_starts(first: int, stop: int, length: int, stride: int) -> range:
    """Where the windows of a document start. The last window is the first one that reaches the document's end."""
    targets = stop - 1 - first
    extra = max(0, -(-(targets - length) // stride))
    return range(first, first + extra * stride + 1, stride) if targets > 0 else range(0)


def pad_windows(tokens: np.ndarray, windows: list[Window], length: int, batch_size: int) -> ScoredRows:
    """A batch of windows, filled up with zeros to `batch_size` rows of `length` tokens."""
    ids, targets = np.zeros((batch_size, length), np.int32), np.zeros((batch_size, length), np.int32)
    weights, segments = np.zeros((batch_size, length), np.float32), np.zeros((batch_size, length), np.int32)
    text = np.zeros((batch_size, length), np.float32)
    for row, (start, stop, overlap, has_end) in enumerate(windows):
        size = stop - start
        ids[row, :size], targets[row, :size] = tokens[start:stop], tokens[start + 1 : stop + 1]
        segments[row, :size], weights[row, overlap:size], text[row, overlap : size - has_end] = 1, 1, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return ScoredRows(Rows(ids, targets, segments, positions, weights), text)
