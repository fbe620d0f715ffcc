"""A part of an index, read by memory map: its text, the suffix array over it, and search in both.

data/index/build.py writes parts, data/index/training_index.py asks all of them together.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data.index.suffix_array import BORDER

ARRAYS = ("text", "suffixes", "buckets", "starts", "places")
WINDOW, LONGEST_WINDOW = 8, 256  # tokens of each suffix that are compared at a time: at first, and at most
CHECKED = 64  # suffixes of a part whose first token is compared as it is opened
BATCH = 1 << 13  # suffixes that are looked for at a time: what is in memory does not grow with the texts


class Matches(NamedTuple):
    """Of each place of a text, int64 [T]: `lengths` of the longest span beginning there that a part holds, and the
    entry of the suffix array at which it stands."""

    lengths: np.ndarray
    entries: np.ndarray


class Part:
    """A part of an index. `text` holds tokens, each plus one, with a BORDER behind every document and LONGEST_WINDOW of
    them at its end. No token is the greatest number of its type.

    `suffixes` are the places in it that belong to this part, in the order of what stands there; what belongs to the
    part after it may stand behind them. `buckets` [ids + 2]: where the suffixes of each first token begin. `starts` and
    `places` say where each document, or the rest of one, begins: in the text, and in the tokens of its store.
    """

    def __init__(self, folder: Path, number: int):
        arrays = [np.asarray(np.load(part_file(folder, name, number), mmap_mode="r")) for name in ARRAYS]
        self.text, self.suffixes, self.buckets, self.starts, self.places = arrays

    def check(self, described: dict) -> None:
        """Raises ValueError where the arrays are not of one part, or not of that which the manifest describes. Of the
        suffixes CHECKED are looked at, evenly over all."""
        sizes = {"tokens": len(self.suffixes), "documents": len(self.starts)}
        if described != sizes or len(self.places) != len(self.starts) or self.buckets[-1] != len(self.suffixes):
            raise ValueError(f"a part is of other sizes than the manifest says: {sizes}, {described}")
        entries = np.arange(0, len(self.suffixes), max(len(self.suffixes) // CHECKED, 1))
        first = np.searchsorted(self.buckets, entries, side="right") - 1
        if (self.suffixes[entries].max(initial=0) >= len(self.text)) or (
            self.text[self.suffixes[entries]] != first
        ).any():
            raise ValueError("arrays of different parts or builds lie together")

    def interval(self, tokens: Sequence[int]) -> tuple[int, int]:
        """The entries of the suffix array whose suffixes begin with these tokens: from the first to behind the last."""
        wanted = [token + 1 for token in tokens]
        count = len(wanted)
        if not count:
            return 0, len(self.suffixes)
        if not 0 < wanted[0] < len(self.buckets) - 1:
            return 0, 0
        low, high = int(self.buckets[wanted[0]]), int(self.buckets[wanted[0] + 1])

        def beginning(entry: int) -> list[int]:
            place = self.suffixes[entry]
            return self.text[place : place + count].tolist()

        first = bisect.bisect_left(range(high), wanted, low, high, key=beginning)
        return first, bisect.bisect_right(range(high), wanted, first, high, key=beginning)

    def next_tokens(self, interval: tuple[int, int], count: int) -> np.ndarray:
        """The tokens that come behind the first `count` tokens of the suffixes of an interval, each once, int64 [n].

        Suffixes of an interval are in the order of these tokens, so each is found from the one before it.
        """
        (low, high), tokens = interval, []
        while high - low > BATCH:
            tokens.append(int(self.text[self.suffixes[low] + count]))
            low = bisect.bisect_right(
                range(high), tokens[-1], low, high, key=lambda entry: int(self.text[self.suffixes[entry] + count])
            )
        rest = np.unique(self.text[self.suffixes[low:high] + count])
        found = np.concatenate([np.array(tokens, np.int64), rest.astype(np.int64)]) - 1
        return found[found >= 0]

    def repeated(self, entries: np.ndarray, count: int) -> np.ndarray:
        """Those of some entries, but for the last of all, whose first `count` tokens stand at the next one, too."""
        places, others = (np.asarray(self.suffixes[entries + step], np.int64) for step in (0, 1))
        for offset in (count - 1, *range(count - 1)):  # most differ in the last
            own, other = (self.text.take(each + offset, mode="clip") for each in (places, others))
            same = (own == other) & (own != BORDER)
            entries, places, others = entries[same], places[same], others[same]
        return entries

    def tokens(self, start: int, stop: int) -> np.ndarray | None:
        """The tokens of places start .. stop of the text, int64; None where they are not of one document."""
        text = self.text[start:stop] if start >= 0 else self.text[:0]
        return text.astype(np.int64) - 1 if len(text) == stop - start and (text != BORDER).all() else None

    def matches(self, texts: Sequence[np.ndarray]) -> Matches:
        """The longest spans that begin at each place of some texts of ids, one text after another."""
        ended = np.iinfo(self.text.dtype).max  # as any id that no document has
        lengths = np.array([len(text) for text in texts], np.int64)
        places = np.arange(lengths.sum()) + np.repeat(np.arange(len(texts)), lengths)
        wanted = np.full(lengths.sum() + len(texts) + LONGEST_WINDOW, ended, self.text.dtype)
        ids = np.concatenate([np.zeros(0, np.int64), *(np.asarray(text, np.int64) for text in texts)])
        wanted[places] = np.where((ids >= 0) & (ids < ended - 1), ids + 1, ended)
        batches = (places[first : first + BATCH] for first in range(0, len(places), BATCH))
        found = [self.batch_of_matches(wanted, batch) for batch in batches]
        empty = Matches(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Matches(*(np.concatenate(columns) for columns in zip(empty, *found, strict=True)))

    def batch_of_matches(self, wanted: np.ndarray, starts: np.ndarray) -> Matches:
        """The matches of some suffixes of `wanted`, tokens as in the part's own text.

        A binary search for all of them at once. `below` and `above` count the tokens that a suffix shares with the
        entries before `low` and at `high`, so those that both share need not be compared again; when they meet, the
        longest match is at one of them (Manber & Myers 1993).
        """
        first = np.minimum(wanted[starts].astype(np.int64), len(self.buckets) - 2)
        known = wanted[starts] == first
        low, high = (np.where(known, self.buckets[first + step], 0).astype(np.int64) for step in (0, 1))
        below, above = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
        while len(active := np.flatnonzero(low < high)):
            middle = (low[active] + high[active]) // 2
            shared = np.maximum(np.minimum(below[active], above[active]), 1)
            places = np.asarray(self.suffixes[middle], np.int64)
            shared, is_before = self.compare(wanted, starts[active], places, shared)
            before, behind = active[is_before], active[~is_before]
            low[before], below[before] = middle[is_before] + 1, shared[is_before]
            high[behind], above[behind] = middle[~is_before], shared[~is_before]
        return Matches(np.maximum(below, above), np.where(above >= below, high, low - 1))

    def compare(
        self, wanted: np.ndarray, starts: np.ndarray, places: np.ndarray, shared: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens `wanted` shares from each start on with the text at a place, and whether the text comes
        first: int64 [n], bool [n]. `shared`: how many are known to be the same."""
        shared, is_before = shared.copy(), np.zeros(len(starts), bool)
        undecided, width = np.arange(len(starts)), WINDOW
        while len(undecided):
            own_nW = sliding_window_view(self.text, width)[places[undecided] + shared[undecided]]
            sought_nW = sliding_window_view(wanted, width)[starts[undecided] + shared[undecided]]
            differs_nW = own_nW != sought_nW
            column, rows = differs_nW.argmax(1), np.arange(len(undecided))
            is_decided = differs_nW[rows, column]
            shared[undecided] += np.where(is_decided, column, width)
            is_before[undecided] = own_nW[rows, column] < sought_nW[rows, column]
            undecided, width = undecided[~is_decided], min(2 * width, LONGEST_WINDOW)
        return shared, is_before

    def document_place(self, entry: int) -> int:
        """Where the suffix of an entry begins in the tokens of the store."""
        place = int(self.suffixes[entry])
        document = int(np.searchsorted(self.starts, place, side="right")) - 1
        return int(self.places[document]) + place - int(self.starts[document])


def part_file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05}.npy"
