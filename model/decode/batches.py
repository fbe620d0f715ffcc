"""Texts of an engine as arrays of few shapes, for one dispatch: where they lie, what they read, how they draw.

decoding.py and speculation.py build them from scheduler.Row and hand them to the programs of programs.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from model.decode.advance import Tokens
from model.decode.draw import Requests, start
from model.decode.links.link import History
from model.decode.parameters import power_of_two
from model.decode.programs import Batch, Places
from model.decode.scheduler import Row
from model.decode.sequence import stack_requests

LEAST_SLOTS = 64  # of a history


def groups_of_kinds(rows: Sequence[Row]) -> list[list[Row]]:
    """The texts, those of one program together: chains of the same kinds."""
    rows_of_kinds: dict[tuple, list[Row]] = {}
    for row in rows:
        rows_of_kinds.setdefault(row.text.chain.kinds, []).append(row)
    return list(rows_of_kinds.values())


def stack_pieces(pieces: Sequence[Sequence[int]], size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] of so many rows and columns, padded on the right, and how many each row has [B]."""
    tokens_BT, count_B = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
    for index, piece in enumerate(pieces):
        tokens_BT[index, : len(piece)], count_B[index] = piece, len(piece)
    return tokens_BT, count_B


def stack_drafts(rows: Sequence[Row], drafts: Sequence[Sequence[int]], places: Places, columns: int) -> Tokens:
    """The newest token of each text, which its memory lacks, and the drafts behind it."""
    pieces = [[row.text.ids[-1], *draft] for row, draft in zip(rows, drafts, strict=True)]
    tokens_BT, count_B = stack_pieces(pieces, len(places.row_B), columns)
    return Tokens(*places, tokens_BT, np.minimum(count_B, 1), count_B, count_B > 0)


def stack_batch(rows: Sequence[Row], size: int, steps: int, context: int, vocab_size: int) -> Batch:
    """What a dispatch needs to draw up to `steps` tokens of some texts, padded to `size` rows."""
    longest = max(len(row.text.ids) for row in rows) + steps
    history_BS = np.zeros((size, max(LEAST_SLOTS, power_of_two(longest))), np.int32)
    length_B, prompt_B, limit_B = np.ones(size, np.int32), np.ones(size, np.int32), np.ones(size, np.int32)
    for index, row in enumerate(rows):
        ids = row.text.ids
        history_BS[index, : len(ids)], length_B[index], prompt_B[index] = ids, len(ids), row.text.prompt
        limit_B[index] = row.end(context)
    texts = [row.text for row in rows]
    requests = stack_requests(texts, limit_B, [row.stop_ids for row in rows])
    history, finished_B = History(history_BS, length_B, prompt_B), np.arange(size) >= len(rows)
    new_B = np.array([text.memories is None for text in texts] + [True] * (size - len(rows)))
    memories = stack_memories(history, requests, finished_B, [text.memories for text in texts], vocab_size)
    return Batch(history, requests, finished_B, new_B, memories)


def stack_memories(history: History, requests: Requests, finished_B, kept: list, vocab_size: int):
    """What the links of some texts remember, padded to the rows of the history; None in `kept` is a new text."""
    known = next((memories for memories in kept if memories is not None), None)
    if known is not None and not jax.tree.leaves(known):
        return known  # links without memory: no shapes to find out, which takes longer than all else here
    shapes = jax.eval_shape(lambda: start(history, requests.chain, finished_B, vocab_size).memories)
    stacked = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    for index, memories in enumerate(kept):
        if memories is not None:
            jax.tree.map(lambda x, row, b=index: x.__setitem__(b, row[0]), stacked, memories)
    return stacked
