"""Drafts of a text's next tokens, for a forward pass that checks them all at once (advance.py). engine.py asks for
them.

A drafter may guess as it likes: a wrong draft costs time and changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from model.cache import PageLayout
from model.decode.batches import groups_of_kinds, stack_batch, stack_pieces
from model.decode.loop import CHUNK
from model.decode.parameters import power_of_two
from model.decode.programs import Places, jitted_programs
from model.decode.prompts import PromptError
from model.decode.scheduler import Row

PIECE = 64  # tokens of a row that a draft model reads in one program


class Drafter(Protocol):
    """What proposes the next tokens of texts."""

    def propose(self, rows: Sequence[Row], count: int) -> list[list[int]]:
        """At most `count` drafts of each text's next tokens; none where it has no guess."""
        ...


@dataclass(frozen=True)
class PromptLookup:
    """Drafts what followed the text's newest tokens when they last stood in it (Saxena 2023, "Prompt lookup decoding").

    It looks for the newest `longest` tokens, then for fewer, down to `shortest`; the more it finds, the more it drafts,
    up to four times as many. Free of any model, and right where a text repeats itself: code, quotations, loops.
    """

    longest: int = 8
    shortest: int = 2

    def propose(self, rows: Sequence[Row], count: int) -> list[list[int]]:
        return [self.draft(np.asarray(row.text.ids), count) for row in rows]

    def draft(self, tokens_S: np.ndarray, count: int) -> list[int]:
        """The tokens after the newest earlier occurrence, over and over if it overlaps the text's end."""
        ends = np.flatnonzero(tokens_S[:-1] == tokens_S[-1])  # of earlier occurrences of the last token
        length = min(len(ends), 1)
        while len(ends) and length < self.longest:
            longer = ends[ends >= length]
            longer = (
                longer[tokens_S[longer - length] == tokens_S[-1 - length]] if length < len(tokens_S) else longer[:0]
            )
            if not len(longer):
                break
            ends, length = longer, length + 1
        if length < self.shortest:
            return []
        return np.resize(tokens_S[ends[-1] + 1 :], min(count, 4 * length - 1)).tolist()


class DraftModel:
    """Drafts what a smaller model draws, with the text's own chain and keys, and so with the same noise as its model.

    Where both models agree on the likely tokens, equal noise makes them draw the same one; draws of their own would
    agree by chance alone. `slots`: of the engine. A text that outgrows this model's context gets no drafts.
    Raises PromptError for a model whose memory can't go back.
    """

    def __init__(self, model, *, vocab_size: int, context: int, slots: int, page_size: int = 16):
        self.vocab_size, self.context, self.waste = vocab_size, context, slots
        self.leaves, structure = jax.tree.flatten(jax.jit(type(model).for_decoding)(model))
        self.programs = jitted_programs(structure)
        self.pages_per_row = power_of_two(-(-context // page_size))
        layout = PageLayout(1 + slots * self.pages_per_row, page_size)
        self.memory = jax.jit(lambda: structure.unflatten(self.leaves).init_pages(slots + 1, layout))()
        if not model.lies_in_pages(self.memory):
            raise PromptError(
                "a draft model must remember keys and values alone, in pages: a recurrent state or a token shift can't "
                "forget wrong drafts; take a model with plain attention"
            )
        self.read: dict[int, list[int]] = {}  # ids that the memory holds, by slot

    def propose(self, rows: Sequence[Row], count: int) -> list[list[int]]:
        fitting = [row for row in rows if row.length + count <= self.context]
        self.catch_up(fitting)
        drafts = {row.number: [] for row in rows}
        for group in groups_of_kinds(fitting):
            drafts |= self.draw(group, min(count, CHUNK))
        return [drafts[row.number] for row in rows]

    def catch_up(self, rows: Sequence[Row]) -> None:
        """Reads each text but for its last token, from where it differs from what the memory holds."""
        windows = {row.slot: row.text.ids[row.start :] for row in rows}
        for slot, ids in windows.items():
            self.read[slot] = ids[: common_length(self.read.get(slot, []), ids[:-1])]
        while unread := [row for row in rows if len(self.read[row.slot]) < row.length - 1]:
            size, most = power_of_two(len(unread)), max(row.length - 1 - len(self.read[row.slot]) for row in unread)
            length = min(power_of_two(most), PIECE)
            pieces = [windows[row.slot][len(self.read[row.slot]) : -1][:length] for row in unread]
            arguments = (self.places(unread, size), *stack_pieces(pieces, size, length))
            self.memory, _ = self.programs.read_rows(self.leaves, self.memory, *arguments)
            for row, piece in zip(unread, pieces, strict=True):
                self.read[row.slot] = self.read[row.slot] + piece

    def draw(self, rows: Sequence[Row], count: int) -> dict[int, list[int]]:
        """Draws up to `count` tokens of texts whose chains are of the same kinds: the drafts, by the text's number."""
        size = power_of_two(len(rows))
        batch = stack_batch(rows, size, CHUNK, self.context, self.vocab_size)
        arguments = (self.places(rows, size), batch, np.int32(count))
        fetched = self.programs.decode_rows(self.leaves, self.memory, *arguments, vocab_size=self.vocab_size)
        self.memory, (_, drawn, _) = jax.block_until_ready(fetched)
        drafts = [[token for token in tokens if token >= 0] for tokens in np.asarray(drawn.token).tolist()[: len(rows)]]
        for row, draft in zip(rows, drafts, strict=True):
            self.read[row.slot] = row.text.ids[row.start :] + draft[:-1]
        return {row.number: draft for row, draft in zip(rows, drafts, strict=True)}

    def places(self, rows: Sequence[Row], size: int) -> Places:
        """Every slot has pages of its own."""
        row_B, length_B = np.full(size, self.waste, np.int32), np.zeros(size, np.int32)
        pages_Bn = np.zeros((size, self.pages_per_row), np.int32)
        for index, row in enumerate(rows):
            row_B[index], length_B[index] = row.slot, len(self.read[row.slot])
            pages_Bn[index] = 1 + row.slot * self.pages_per_row + np.arange(self.pages_per_row)
        return Places(row_B, length_B, pages_Bn)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning."""
    length = min(len(first), len(second))
    differs = np.not_equal(first[:length], second[:length])
    return int(differs.argmax()) if differs.any() else length
