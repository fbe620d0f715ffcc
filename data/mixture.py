"""Mixtures: which source each row of the run comes from, and which of the source's own rows it is.

data/pipeline.py asks for the rows of a step. All is closed form: any row can be asked for at any time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.errors import DataError, FieldError

BLOCK = 1 << 16  # rows in which the shares are exact, and the finest share: one row of them
NEVER = np.iinfo(np.int64).max


class MixedSource(NamedTuple):
    """What the mixture needs to know of a source: `row_tokens` is the mean number of predictions in its rows."""

    name: str
    row_tokens: float
    rows_per_epoch: int
    repeats: bool


class BlockOrder(NamedTuple):
    """The order of rows in a block: the source of each, int64 [BLOCK], and the how-manieth of its source it is."""

    sources: np.ndarray
    ranks: np.ndarray


class Stretch(NamedTuple):
    """Rows `start` and following, which have the same shares: those of one order of rows, block after block.

    `counts` [S] are the rows of each source in a block, `before` [S] those in front of the stretch.
    """

    start: int
    counts: np.ndarray
    before: np.ndarray

    @property
    def order(self) -> BlockOrder:
        return block_order(tuple(self.counts.tolist()))

    def drawn(self, rows: int) -> np.ndarray:
        """int64 [S]: rows of each source in front of row start + `rows`."""
        blocks, rest = divmod(rows, BLOCK)
        return self.before + blocks * self.counts + np.bincount(self.order.sources[:rest], minlength=len(self.counts))

    def row_of_draw(self, source: int, draw: int) -> int:
        """The row at which a source is drawn for the `draw`-th time (from 0), if the stretch goes on for ever."""
        if not self.counts[source]:
            return NEVER
        block, rank = divmod(draw - int(self.before[source]), int(self.counts[source]))
        place = np.flatnonzero(self.order.sources == source)[rank]
        return self.start + block * BLOCK + int(place)


class Mixing:
    """Maps rows of the run to (source, row of the source), by tokens: a source of shorter rows gives more of them.

    `phases` are (first row, weights [S]) in order, the first from row 0. Where a source that does not repeat has given
    its epoch and would be drawn again, a new stretch begins, in which the others share what was its. `end` is the row
    at which none is left.
    """

    def __init__(self, sources: Sequence[MixedSource], phases: Sequence[tuple[int, Sequence[float]]]):
        self.sources, self.stretches, self.end = sources, [], NEVER
        limits = [NEVER if source.repeats else source.rows_per_epoch for source in sources]
        before = np.zeros(len(sources), np.int64)
        for number, (start, weights) in enumerate(phases):
            stop = phases[number + 1][0] if number + 1 < len(phases) else NEVER
            while start < stop:
                shares = np.where(before >= limits, 0, weights) / [source.row_tokens for source in sources]
                if not shares.any():
                    self.end = start
                    return
                stretch = Stretch(start, block_counts(shares, sources), before)
                ends = [stretch.row_of_draw(i, limits[i]) if limits[i] < NEVER else NEVER for i in range(len(sources))]
                start = min(stop, *ends)
                before = stretch.drawn(start - stretch.start) if start < NEVER else before
                self.stretches.append(stretch)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row, and its number among the rows of that source. int64 [n] -> int64 [n] twice."""
        if rows.max(initial=0) >= self.end:
            raise DataError(f"every source of the mixture has ended after {self.end} rows; let one of them repeat")
        sources, numbers = np.empty_like(rows), np.empty_like(rows)
        which = np.searchsorted([stretch.start for stretch in self.stretches], rows, side="right") - 1
        for index in np.unique(which):
            stretch, chosen = self.stretches[index], which == index
            blocks, places = np.divmod(rows[chosen] - stretch.start, BLOCK)
            source = stretch.order.sources[places]
            sources[chosen] = source
            numbers[chosen] = stretch.before[source] + blocks * stretch.counts[source] + stretch.order.ranks[places]
        return sources, numbers

    def drawn(self, rows: int) -> np.ndarray:
        """int64 [S]: how many of the first `rows` rows each source gives."""
        stretch = next(s for s in reversed(self.stretches) if s.start <= rows)
        return stretch.drawn(rows - stretch.start)

    def epochs(self, rows: int) -> dict[str, float]:
        """How often each source has been read through in the first `rows` rows."""
        drawn = self.drawn(rows)
        return {s.name: float(count / s.rows_per_epoch) for s, count in zip(self.sources, drawn, strict=True)}


def block_counts(shares: np.ndarray, sources: Sequence[MixedSource]) -> np.ndarray:
    """Rows of each source in a block, by largest remainder. Raises FieldError for a share that gives no row."""
    exact = shares / shares.sum() * BLOCK
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]
    counts[largest] += 1
    for source, share, count in zip(sources, shares, counts, strict=True):
        if share > 0 and not count:
            raise FieldError(
                f"data.source: the weight of {source.name} gives it less than one row in {BLOCK}; raise it, or leave "
                "the source out"
            )
    return counts


@functools.lru_cache(maxsize=8)  # a megabyte each, and a mixture may have a thousand phases
def block_order(counts: tuple[int, ...]) -> BlockOrder:
    """An order in which the rows of each source are spread evenly: the k-th of n stands at (k + 1/2) / n of the block.

    So of S sources one of share p is within 1/2 + p (S - 2) / 2 rows of its share, after any number of rows.
    """
    sources = np.repeat(np.arange(len(counts)), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ranks + 0.5) / np.array(counts)[sources], kind="stable")
    return BlockOrder(sources[order], ranks[order])
