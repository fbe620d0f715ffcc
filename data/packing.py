"""Ways to pack documents into rows. Each class maps numbers of rows to the spans of tokens that they read.

data/pipeline.py makes rows of the spans. A row of length T holds T predictions: an input token and its target, the next
token of the same document. A document of n tokens gives n - 1 of them, so no row ends between an input and its target.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from data import permutation
from data.best_fit import best_fit
from data.documents import Documents
from data.permutation import derive_key, permute
from data.plans import NoPlans, Plans

ROW_ORDER, WINDOW_STARTS, DOCUMENT_ORDER = 1, 2, 3  # a key's purpose is part of it, so that no two draws share a key
BLOCK = 32  # documents whose predictions are summed up in one number


class Spans(NamedTuple):
    """The spans of tokens that rows read, in order: inputs are tokens[start:stop], targets are one further."""

    rows: np.ndarray  # int64 [spans]: which of the rows that were asked for, from 0, ascending
    starts: np.ndarray  # int64 [spans]
    stops: np.ndarray  # int64 [spans]


class Packing(Protocol):
    """`rows_per_epoch` rows read every prediction once, where they do so; `predictions` is their number."""

    rows_per_epoch: int
    predictions: int

    def spans(self, rows: np.ndarray) -> Spans:
        """The spans of these rows, int64 [n] from 0; rows from `rows_per_epoch` on are of later epochs."""
        ...


def padding_share(packing: Packing, length: int) -> float:
    """The share of an epoch's places that hold no prediction."""
    return 1 - packing.predictions / (packing.rows_per_epoch * length)


class Joined:
    """Documents in an order, joined into one run of predictions: finds which documents a part of the run reads.

    Only the sums of blocks of documents are held, 8 bytes for BLOCK of them. `key`: of the permutation that orders the
    documents; None leaves them as they are.
    """

    def __init__(self, documents: Documents, key: np.uint64 | None, plans: Plans):
        self.documents, self.key, self.count = documents, key, len(documents)
        self.block_ends = plans.array(("joined", None if key is None else int(key)), self.sum_blocks)
        self.predictions = int(self.block_ends[-1]) if self.count else 0

    def sum_blocks(self) -> np.ndarray:
        """int64 [blocks]: predictions up to the end of each block."""
        sums = [
            np.add.reduceat(self.documents.bounds(self.ordered(numbers)).targets, np.arange(0, len(numbers), BLOCK))
            for numbers in self.documents.chunks()  # whole blocks, as their size is a multiple of BLOCK
        ]
        return np.cumsum(np.concatenate(sums)) if sums else np.zeros(0, np.int64)

    def ordered(self, places: np.ndarray) -> np.ndarray:
        """The numbers of the documents at these places of the order."""
        return places if self.key is None else permute(places, self.count, self.key)

    def spans(self, starts: np.ndarray, stops: np.ndarray) -> Spans:
        """What the parts starts[i] .. stops[i] of the run read, int64 [n]; an empty part reads nothing."""
        first = np.searchsorted(self.block_ends, starts, side="right")
        last = np.searchsorted(self.block_ends, stops, side="left")
        blocks = np.where(stops > starts, last - first + 1, 0)
        part = np.repeat(np.arange(len(starts)), blocks * BLOCK)
        places = expand(first * BLOCK, blocks * BLOCK)
        part, places = part[places < self.count], places[places < self.count]
        bounds = self.documents.bounds(self.ordered(places))
        before = np.where(first > 0, self.block_ends[first - 1], 0)  # the predictions in front of each part's blocks
        ends = np.cumsum(bounds.targets)
        begins_part = np.searchsorted(part, np.arange(len(starts)))
        offsets = before - np.append(0, ends)[begins_part]
        ends += offsets[part]
        begins = ends - bounds.targets
        low, high = np.maximum(begins, starts[part]), np.minimum(ends, stops[part])
        read = high > low
        shift = bounds.starts - begins
        return Spans(part[read], (low + shift)[read], (high + shift)[read])


def expand(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The whole numbers from each start on, so many as its length, one after another. int64 [sum of lengths]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


class RandomWindows:
    """Every row starts at a prediction drawn at random, with replacement (nanoGPT: randint(len(data) - length))."""

    def __init__(self, documents: Documents, length: int, seed: int, plans: Plans):
        self.key, self.length = derive_key(seed, WINDOW_STARTS), length
        self.joined = Joined(documents, None, plans)
        self.start_count = self.joined.predictions + 1 - length
        self.rows_per_epoch = max(1, self.joined.predictions // length)
        self.predictions = self.rows_per_epoch * length

    def spans(self, rows: np.ndarray) -> Spans:
        with np.errstate(over="ignore"):
            random_bits = permutation.splitmix64(self.key + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        starts = (random_bits % np.uint64(self.start_count)).astype(np.int64)
        return self.joined.spans(starts, starts + self.length)


class Concatenate:
    """The documents are permuted once, joined and cut into rows; each epoch takes all rows in an order of its own.

    Each epoch begins to cut at a random place, so that the borders between its rows fall elsewhere. What is left over
    at the beginning and at the end makes up its last row, the only one that is not full.
    """

    def __init__(self, documents: Documents, length: int, seed: int, plans: Plans):
        self.seed, self.length = seed, length
        self.joined = Joined(documents, derive_key(seed, DOCUMENT_ORDER), plans)
        self.predictions = self.joined.predictions
        self.full_rows, self.leftover = divmod(self.predictions, length)
        self.rows_per_epoch = self.full_rows + (self.leftover > 0)

    def spans(self, rows: np.ndarray) -> Spans:
        starts, stops, rests = self.cut(rows)
        ends = np.full_like(rests, self.predictions)
        spans = self.joined.spans(np.stack([starts, rests], 1).ravel(), np.stack([stops, ends], 1).ravel())
        return spans._replace(rows=spans.rows // 2)

    def cut(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each row its start and stop in the run, and where the second part of an epoch's last row starts."""
        epochs, numbers = np.divmod(rows.astype(np.int64), self.rows_per_epoch)
        starts, offsets = np.zeros_like(numbers), np.empty_like(numbers)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            key = derive_key(self.seed, ROW_ORDER, int(epoch))
            offsets[in_epoch] = int(key % np.uint64(self.leftover + 1))
            full = in_epoch & (numbers < self.full_rows)
            starts[full] = permute(numbers[full], self.full_rows, key) * self.length + offsets[full]
        is_last = numbers >= self.full_rows
        stops = np.where(is_last, offsets, starts + self.length)
        rests = np.where(is_last, offsets + self.full_rows * self.length, self.predictions)
        return starts, stops, rests


class Planned:
    """Rows that were put together ahead of time; each epoch takes them in an order of its own.

    `row_ends` int64 [rows]: how many spans the rows up to each hold; `starts` int64 and `lengths` int32 [spans].
    """

    def __init__(self, documents: Documents, length: int, seed: int, plans: Plans):
        self.seed = seed
        name = type(self).__name__, length, seed
        self.row_ends, self.starts, self.lengths = plans.arrays(name, lambda: self.plan(documents, length, seed), 3)
        self.rows_per_epoch, self.predictions = len(self.row_ends), documents.targets

    def spans(self, rows: np.ndarray) -> Spans:
        epochs, numbers = np.divmod(rows.astype(np.int64), self.rows_per_epoch)
        for epoch in np.unique(epochs):
            key, in_epoch = derive_key(self.seed, ROW_ORDER, int(epoch)), epochs == epoch
            numbers[in_epoch] = permute(numbers[in_epoch], self.rows_per_epoch, key)
        ends = np.asarray(self.row_ends[numbers])
        begins = np.where(numbers > 0, self.row_ends[numbers - 1], 0)
        chosen = expand(begins, ends - begins)
        starts = np.asarray(self.starts[chosen])
        return Spans(np.repeat(np.arange(len(rows)), ends - begins), starts, starts + self.lengths[chosen])


def row_parts(documents: Documents, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts int64 and lengths int32 of the parts of all documents, in the order of the seed: none is over `length`.

    A document longer than a row is cut into full rows and a rest; one without a prediction has no part.
    """
    key, starts, lengths = derive_key(seed, DOCUMENT_ORDER), [], []
    for places in documents.chunks():
        bounds = documents.bounds(permute(places, len(documents), key))
        parts = -(-bounds.targets // length)
        part = expand(np.zeros_like(parts), parts)
        starts.append(np.repeat(bounds.starts, parts) + part * length)
        lengths.append(np.minimum(np.repeat(bounds.targets, parts) - part * length, length).astype(np.int32))
    return np.concatenate(starts), np.concatenate(lengths)


class Padding(Planned):
    """Every document begins a row of its own, which is filled up with padding."""

    @staticmethod
    def plan(documents: Documents, length: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts, lengths = row_parts(documents, length, seed)
        return np.arange(1, len(starts) + 1), starts, lengths


class BestFit(Planned):
    """Whole documents are put together in rows, the longest first, each where the least room remains.

    Best-fit decreasing, as Ding et al. 2024 ("Fewer Truncations Improve Language Modeling") pack. Only documents longer
    than a row cross a border: their full rows come alone, their rest is packed as a document.
    """

    @staticmethod
    def plan(documents: Documents, length: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts, lengths = row_parts(documents, length, seed)
        rows = best_fit(np.bincount(lengths, minlength=length + 1), length)
        order = np.argsort(-lengths, kind="stable")  # parts of one length in the seed's order
        sizes = np.concatenate([np.tile(np.repeat(row.lengths, row.copies), row.rows) for row in rows])
        slots = np.argsort(-sizes, kind="stable")
        spans = np.empty_like(order)
        spans[slots] = order
        spans_a_row = np.concatenate([np.full(row.rows, sum(row.copies)) for row in rows])
        return np.cumsum(spans_a_row), starts[spans], lengths[spans]


class Pairs:
    """Rows 2i and 2i + 1 are the chosen and the rejected half of one preference pair; each epoch takes all pairs in an
    order of its own. No half may be longer than a row (data/long_responses.py)."""

    def __init__(self, documents: Documents, length: int, seed: int, plans: Plans):
        del length, plans
        self.documents, self.seed, self.count = documents, seed, len(documents)
        self.rows_per_epoch = 2 * self.count
        self.predictions = sum(replace(documents, half=half).targets for half in (0, 1))

    def spans(self, rows: np.ndarray) -> Spans:
        epochs, numbers = np.divmod(rows.astype(np.int64) // 2, self.count)
        for epoch in np.unique(epochs):
            key, in_epoch = derive_key(self.seed, ROW_ORDER, int(epoch)), epochs == epoch
            numbers[in_epoch] = permute(numbers[in_epoch], self.count, key)
        return half_spans(self.documents, numbers, rows % 2)


def half_spans(documents: Documents, numbers: np.ndarray, halves: np.ndarray) -> Spans:
    """The spans of rows that read one half, 0 or 1, of one preference pair each. int64 [n] twice."""
    chosen, rejected = (replace(documents, half=half).bounds(numbers) for half in (0, 1))
    starts = np.where(halves == 0, chosen.starts, rejected.starts)
    return Spans(np.arange(len(numbers)), starts, starts + np.where(halves == 0, chosen.targets, rejected.targets))


PACKINGS = {
    "windows": RandomWindows, "concatenate": Concatenate, "best_fit": BestFit, "padding": Padding, "pairs": Pairs,
}  # fmt: skip


def make_packing(kind: str, documents: Documents, length: int, seed: int, plans: Plans | None = None) -> Packing:
    """The packing of a config (data.config.Data.packing) over documents. `plans` keeps what takes long to make."""
    return PACKINGS[kind](documents, length, seed, plans or NoPlans())
