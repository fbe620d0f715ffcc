"""Which shape of forward pass gives a token the same bits wherever it stands in it: found by trying, at the start.

Sums in floating point depend on their order, and a program may add in another order at another row or column of a
matrix, or in a matrix of another size. So in invariant mode engine.py reads all tokens, those of prompts, of texts and
of drafts, in tiles of one size, by one program, whose results were found to depend on a row's own tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from model.cache import PageLayout, is_shared, lies_in_pages
from model.decode.advance import Tokens

# (memory, Tokens) -> (logits [B, T, V], memory): the program under test. The memory may be donated to it.
Read = Callable[[Any, Tokens], tuple[jax.Array, Any]]


class Tile(NamedTuple):
    """The tokens of a forward pass: so many rows of so many columns."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns}"


class TableSize(NamedTuple):
    """Pages of a row: of `width` entries of its table the first `used` can hold tokens of a context."""

    width: int
    used: int


TILES = (Tile(8, 8), Tile(4, 4), Tile(8, 1), Tile(1, 8), Tile(1, 1))  # in the order in which they are tried
SHIFTS = 3  # a text is read at columns this many apart, and each time in other rows
EXTRA = 3  # tokens of a text that do not fit into one row of a tile


class Places(NamedTuple):
    """Where a proof's texts lie: `start` slots are filled before them, and row b owns the pages `pages_Bn`."""

    start: int
    pages_Bn: np.ndarray
    page_size: int


def choose_tile(read: Read, memory: Any, pages: PageLayout, table: TableSize, vocab_size: int, tiles=TILES):
    """The first tile that passes the proof, and the memory, whose rows and pages hold no text yet.

    A tile of one token passes without one: it has no other row or column. Tiles whose texts find no pages are left out.
    """
    for tile in tiles:
        passed = tile == (1, 1)
        for places in () if passed else all_places(memory, tile, pages, table):
            passed, memory = is_invariant(read, memory, tile, places, vocab_size)
            if not passed:
                break
        if passed:
            return tile, memory
    raise ValueError(f"none of the tiles {', '.join(map(str, tiles))} is invariant; add 1 x 1, which always is")


def all_places(memory: Any, tile: Tile, pages: PageLayout, table: TableSize) -> list[Places]:
    """Texts at the start of the context, and at its end, with the same page before each of them, many times.

    None where there are too few pages; no end where rows remember more than what lies in pages."""
    owned = min(-(-(tile.columns + EXTRA) // pages.size), table.used)
    if 2 + tile.rows * owned > pages.count:
        return []
    own_Bn = 2 + np.arange(tile.rows * owned, dtype=np.int32).reshape(tile.rows, owned)
    first_Bn, last_Bn = np.zeros((2, tile.rows, table.width), np.int32)
    before = table.used - owned
    first_Bn[:, :owned], last_Bn[:, :before], last_Bn[:, before : table.used] = own_Bn, 1, own_Bn
    first, last = Places(0, first_Bn, pages.size), Places(before * pages.size, last_Bn, pages.size)
    return [first, last] if lies_in_pages(memory) else [first]


def parts(memory: Any) -> list:
    """The parts of a memory: what lies in pages, and arrays of rows."""
    return jax.tree.leaves(memory, is_leaf=is_shared)


def is_invariant(read: Read, memory: Any, tile: Tile, places: Places, vocab_size: int) -> tuple[bool, Any]:
    """Whether a text's logits, and what is remembered of it, have the same bits at all rows and columns of a tile."""
    random = np.random.default_rng(0)
    length = min(tile.columns + EXTRA, (places.pages_Bn[0] > 1).sum() * places.page_size)
    text = random.integers(0, vocab_size, length, dtype=np.int32)
    logits, remembered = [set() for _ in text], set()
    for shift in range(SHIFTS):
        # Every third row has another text, and every run other pages.
        texts = [random.integers(0, vocab_size, length) if (row + shift) % 3 == 2 else text for row in range(tile.rows)]
        places = places._replace(pages_Bn=np.roll(places.pages_Bn, 1, axis=0))
        memory, rows = read_at(read, memory, texts, tile, places, shift, vocab_size)
        for row in range(tile.rows):
            if texts[row] is text:
                remembered.add(row_bytes(memory, row, places, length))
                for position, logits_V in enumerate(rows[row]):
                    logits[position].add(logits_V.tobytes())
    return len(remembered) == 1 and all(len(found) == 1 for found in logits), memory


def read_at(read: Read, memory: Any, texts: list, tile: Tile, places: Places, shift: int, vocab_size: int):
    """Reads a text in each row, the first of its pieces so short that later ones begin at other columns in each row.

    Returns the memory, and the logits [S, V] of each row."""
    random, rows = np.random.default_rng(shift), [[] for _ in texts]
    while any(len(found) < len(text) for text, found in zip(texts, rows, strict=True)):
        tokens_BT, count_B = random.integers(0, vocab_size, tile, dtype=np.int32), np.zeros(tile.rows, np.int32)
        read_B = np.array([len(found) for found in rows], np.int32)
        for row, text in enumerate(texts):
            most = tile.columns if read_B[row] else (row + shift) % tile.columns + 1
            piece = text[read_B[row] : read_B[row] + most]
            tokens_BT[row, : len(piece)], count_B[row] = piece, len(piece)
        row_B, nothing_B = np.arange(tile.rows, dtype=np.int32), np.zeros(tile.rows, bool)
        tokens = Tokens(row_B, places.start + read_B, places.pages_Bn, tokens_BT, count_B, count_B, nothing_B)
        logits_BTV, memory = read(memory, tokens)
        for found, logits_TV, count in zip(rows, np.asarray(logits_BTV), count_B, strict=True):
            found.extend(logits_TV[:count])
    return memory, rows


def row_bytes(memory: Any, row: int, places: Places, length: int) -> bytes:
    """All that a row remembers of its text."""

    def own(part) -> bytes:
        if not is_shared(part):
            return np.asarray(part[row]).tobytes()
        slots = slice(places.start, places.start + length)
        pages = (np.moveaxis(np.asarray(x[places.pages_Bn[row]]), part.slot_axis, 1) for x in jax.tree.leaves(part))
        return b"".join(x.reshape(-1, *x.shape[2:])[slots].tobytes() for x in pages)  # [n, C, …] -> [n C, …]

    return b"".join(map(own, parts(memory)))
