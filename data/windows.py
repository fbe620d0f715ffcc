"""Rows that score a whole text, every token once. train/evaluate.py sums their losses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from data.errors import DataError
from data.rows import Rows


def score_rows(
    tokens: np.ndarray, length: int, stride: int, batch: int, offsets: np.ndarray | None = None
) -> Iterator[Rows]:
    """Windows of `length` tokens, `stride` apart, in batches of `batch` rows (the last one filled up with weight 0).

    Every token but each document's first is a target exactly once: where windows overlap, only the targets that no
    earlier window had count. `offsets` [documents + 1] keeps documents apart; None: the tokens are one document.
    """
    bounds = np.array([0, len(tokens)]) if offsets is None else offsets
    pieces = [
        (start, min(start + length, stop - 1), 0 if start == first else length - stride)
        for first, stop in itertools.pairwise(bounds)
        for start in window_starts(first, stop, length, stride)
    ]
    for place in range(0, len(pieces), batch):
        yield padded(tokens, pieces[place : place + batch], length, batch)


def check_targets(offsets: np.ndarray, origin: str) -> None:
    """Raises DataError where no document has a second token: its first is never a target."""
    if np.diff(offsets).max(initial=0) < 2:
        raise DataError(f"{origin}: nothing to score; give a text of two tokens or more in one document")


def window_starts(first: int, stop: int, length: int, stride: int) -> range:
    """Starts of a document's windows: the last one is the first that reaches the end."""
    targets = stop - 1 - first
    extra = max(0, -(-(targets - length) // stride))
    return range(first, first + extra * stride + 1, stride) if targets > 0 else range(0)


def padded(tokens: np.ndarray, pieces: list[tuple[int, int, int]], length: int, batch: int) -> Rows:
    ids, targets = np.zeros((batch, length), np.int32), np.zeros((batch, length), np.int32)
    weights, segments = np.zeros((batch, length), np.float32), np.zeros((batch, length), np.int32)
    for row, (start, stop, counted) in enumerate(pieces):
        size = stop - start
        ids[row, :size], targets[row, :size] = tokens[start:stop], tokens[start + 1 : stop + 1]
        segments[row, :size], weights[row, counted:size] = 1, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return Rows(ids, targets, segments, positions, weights)
