"""Best-fit decreasing: which parts of documents share a row. data/packing.py lays them out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RowPattern(NamedTuple):
    """So many rows alike: each holds copies[i] parts of lengths[i] predictions."""

    lengths: tuple[int, ...]
    copies: tuple[int, ...]
    rows: int


def best_fit(counts: np.ndarray, length: int) -> list[RowPattern]:
    """Best-fit decreasing for counts[s] parts of each length s, up to `length`: the same rows as one part at a time.

    Rows with the same parts in them are treated together, so the time depends on the lengths, not on the parts.
    """
    open_rows: list[list[RowPattern]] = [[] for _ in range(length + 1)]  # by the room that remains
    is_open = np.zeros(length + 1, bool)
    for size in range(length, 0, -1):
        remaining = int(counts[size])
        while remaining:
            room = size + int(np.argmax(is_open[size:]))  # the least that is enough
            is_new = not is_open[room]
            room = length if is_new else room
            pattern = RowPattern((), (), remaining) if is_new else open_rows[room].pop()
            copies = min(room // size, remaining)
            taken = min(pattern.rows, remaining // copies)
            filled = RowPattern((*pattern.lengths, size), (*pattern.copies, copies), taken)
            open_rows[room - copies * size].append(filled)
            if taken < pattern.rows and not is_new:
                open_rows[room].append(pattern._replace(rows=pattern.rows - taken))
            for changed in (room, room - copies * size):
                is_open[changed] = bool(open_rows[changed])
            remaining -= taken * copies
    return [pattern for patterns in open_rows for pattern in patterns]
