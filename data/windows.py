"""Rows that score whole documents, every token once. train/evaluate.py sums their losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.documents import Documents
from data.errors import DataError
from data.rows import Rows, ScoredRows


class Window(NamedTuple):
    """Tokens start .. stop, of which those up to `stop` + 1 are targets; the first `known` of them counted before.

    `ends`: the last target is the end token of its document.
    """

    start: int
    stop: int
    known: int
    ends: bool


def scoring_rows(documents: Documents, length: int, stride: int, batch: int) -> Iterator[ScoredRows]:
    """Windows of `length` tokens, `stride` apart, in batches of `batch` rows (the last one filled up with weight 0).

    Every token but each document's first is a target exactly once: where windows overlap, only the targets that no
    earlier window had count.
    """
    pieces = [
        Window(
            start,
            min(start + length, stop - 1),
            known=0 if start == first else length - stride,
            ends=documents.ended and start + length >= stop - 1,
        )
        for first, stop in documents.bounds
        for start in window_starts(first, stop, length, stride)
    ]
    for place in range(0, len(pieces), batch):
        yield pad_windows(documents.tokens, pieces[place : place + batch], length, batch)


def check_targets(documents: Documents, origin: str) -> None:
    """Raises DataError where no document has a second token, or none of them is text: a first is never a target."""
    if np.diff(documents.bounds).max(initial=0) < 2 or not documents.bytes:
        raise DataError(f"{origin}: nothing to score; give a text of two tokens or more in one document")


def window_starts(first: int, stop: int, length: int, stride: int) -> range:
    """Starts of a document's windows: the last one is the first that reaches the end."""
    targets = stop - 1 - first
    extra = max(0, -(-(targets - length) // stride))
    return range(first, first + extra * stride + 1, stride) if targets > 0 else range(0)


def pad_windows(tokens: np.ndarray, pieces: list[Window], length: int, batch: int) -> ScoredRows:
    ids, targets = np.zeros((batch, length), np.int32), np.zeros((batch, length), np.int32)
    weights, segments = np.zeros((batch, length), np.float32), np.zeros((batch, length), np.int32)
    text = np.zeros((batch, length), np.float32)
    for row, (start, stop, known, ends) in enumerate(pieces):
        size = stop - start
        ids[row, :size], targets[row, :size] = tokens[start:stop], tokens[start + 1 : stop + 1]
        segments[row, :size], weights[row, known:size], text[row, known : size - ends] = 1, 1, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return ScoredRows(Rows(ids, targets, segments, positions, weights), text)
