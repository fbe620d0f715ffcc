"""Rows that score whole documents: windows in which every token counts once. train/evaluate.py sums their losses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data.documents import Documents
from data.errors import DataError
from data.rows import Rows, ScoredRows

DOCUMENTS = 4096  # whose windows are listed at a time


class ScoredText(NamedTuple):
    """Documents to score, and the bytes of text that their targets stand for. `name` stands in metrics."""

    name: str
    documents: Documents
    bytes: int


class Window(NamedTuple):
    """A part of a document, in one row: it reads tokens[start:stop] and predicts tokens[start + 1 : stop + 1].

    Its first `overlap` targets counted in an earlier window. `has_end`: its last target is the document's end token.
    `document`: its number.
    """

    document: int
    start: int
    stop: int
    overlap: int
    has_end: bool


def scoring_rows(documents: Documents, length: int, stride: int, batch_size: int) -> Iterator[ScoredRows]:
    """Batches of `batch_size` rows that score documents in windows of `length` tokens, `stride` apart.

    Every token but each document's first is a target exactly once: where windows overlap, in the first of them. Those
    of pieces that do not count have no weight. Short windows share a row, each with a segment of its own. The last
    batch is filled up with rows of weight 0.
    """
    for batch in window_batches(documents, length, stride, batch_size):
        yield fill_windows(documents, batch, length, batch_size)


def window_batches(documents: Documents, length: int, stride: int, batch_size: int) -> Iterator[list[list[Window]]]:
    """The windows of each row of each batch of `scoring_rows`, in their order in the row."""
    rows = share_rows(document_windows(documents, length, stride), length)
    while batch := list(itertools.islice(rows, batch_size)):
        yield batch


def window_numbers(batch: list[list[Window]], length: int, batch_size: int) -> np.ndarray:
    """The number in its batch of the window that each target belongs to, int64 [rows, length]; 0 in padding."""
    numbers, first = np.zeros((batch_size, length), np.int64), 0
    for row, windows in zip(numbers, batch, strict=False):
        own = np.repeat(np.arange(first, first + len(windows)), [w.stop - w.start for w in windows])
        row[: len(own)] = own
        first += len(windows)
    return numbers


def share_rows(windows: Iterable[Window], length: int) -> Iterator[list[Window]]:
    """The windows of each row: as many in a row, in their order, as there is room for."""
    row, room = [], length
    for window in windows:
        size = window.stop - window.start
        if size > room:
            yield row
            row, room = [], length
        row.append(window)
        room -= size
    if row:
        yield row


def document_windows(documents: Documents, length: int, stride: int) -> Iterator[Window]:
    for first_number in range(0, len(documents), DOCUMENTS):
        numbers = np.arange(first_number, min(first_number + DOCUMENTS, len(documents)))
        bounds = (numbers, *documents.bounds(numbers))
        for number, first, stop, ended in zip(*map(np.ndarray.tolist, bounds), strict=True):
            for start in window_starts(first, stop, length, stride):
                overlap = 0 if start == first else length - stride
                yield Window(
                    number, start, min(start + length, stop - 1), overlap, ended and start + length >= stop - 1
                )


def check_targets(text: ScoredText, origin: str) -> None:
    """Raises DataError where documents have no target that stands for text: a document's first token is no target."""
    if not text.bytes or not text.documents.targets:
        raise DataError(f"{origin}: nothing to score; give a text of two tokens or more in one document")


def window_starts(first: int, stop: int, length: int, stride: int) -> range:
    """Where the windows of a document start. The last window is the first one that reaches the document's end."""
    targets = stop - 1 - first
    extra = max(0, -(-(targets - length) // stride))
    return range(first, first + extra * stride + 1, stride) if targets > 0 else range(0)


def fill_windows(documents: Documents, batch: list[list[Window]], length: int, batch_size: int) -> ScoredRows:
    """A batch of the windows of each row, filled up with zeros to `batch_size` rows of `length` tokens."""
    rows = Rows.empty(batch_size, length)
    for array in rows:
        array[:] = 0
    scored = ScoredRows(rows, np.zeros((batch_size, length), np.float32))
    for number, windows in enumerate(batch):
        column = 0
        for segment, window in enumerate(windows, 1):
            fill_window(scored, documents, window, number, column, segment)
            column += window.stop - window.start
    return scored


def fill_window(scored: ScoredRows, documents: Documents, window: Window, row: int, column: int, segment: int) -> None:
    """Writes a window into a row, from a column on."""
    (_, start, stop, overlap, has_end), rows = window, scored.rows
    size = stop - start
    part = row, slice(column, column + size)
    read = documents.tokens[start : stop + 1]
    rows.tokens[part], rows.targets[part], rows.segments[part] = read[:-1], read[1:], segment
    rows.positions[part] = np.arange(size)
    weights = documents.counts(np.arange(start + 1, stop + 1))
    weights[:overlap] = False
    rows.weights[part] = weights
    weights[size - has_end :] = False
    scored.text[part] = weights
