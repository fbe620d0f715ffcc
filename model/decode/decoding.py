"""How an engine reads its texts and draws from them: in chunks, along drafts, or in invariant tiles. engine.py has one.

Each is given the engine's texts (scheduler.Row), dispatches programs on its memory, and says what every text drew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from model.cache import PageLayout
from model.decode.advance import Tokens
from model.decode.batches import groups_of_kinds, stack_batch, stack_drafts, stack_pieces
from model.decode.draw import Drawn
from model.decode.invariance import TableSize, Tile, choose_tile
from model.decode.parameters import power_of_two
from model.decode.programs import Batch, Places, draw_row
from model.decode.prompts import PromptError
from model.decode.scheduler import Row
from model.decode.speculation import Drafter

UNDRAFTED = 4  # tokens of a dispatch whose texts have no drafts
LEAST_PIECE = 16  # tokens of a row in a dispatch that reads: fewer cost about as much


class Outcome(NamedTuple):
    """What a step came to for one text: its chain's memories and what it drew, both of one row, and how many drafts it
    was given."""

    memories: Any
    drawn: Drawn
    finished: bool
    drafts: Sequence[int]

    @property
    def accepted(self) -> int:
        """How many of the drafts the text drew itself."""
        equal = np.equal(self.drafts, self.drawn.token[0, : len(self.drafts)])
        return int(np.logical_and.accumulate(equal).sum())


class Decoding(Protocol):
    """A way to draw. `steps`: tokens that one step adds to a text at most."""

    steps: int

    def read(self) -> bool:
        """Reads a piece of the texts that are not read to their ends. False if there are none."""
        ...

    def groups(self, rows: list[Row]) -> list[list[Row]]:
        """The texts, those together that one `draw` can take."""
        ...

    def draw(self, rows: list[Row], steps: int) -> list[Outcome]:
        """Draws up to so many tokens of texts that are read to their ends."""
        ...


def outcomes(fetched: tuple, drafts: Sequence[Sequence[int]]) -> list[Outcome]:
    """What a program returned for all rows of a dispatch, row by row. `drafts`: an entry for each text."""
    memories, drawn, finished_B = jax.device_get(jax.block_until_ready(fetched))
    return [Outcome(*one_row((memories, drawn), row), bool(finished_B[row]), draft) for row, draft in enumerate(drafts)]


def one_row(tree: Any, row: int) -> Any:
    """One row of a pytree of arrays with an axis B in front, which stays, with size 1."""
    return jax.tree.map(lambda x: x[row : row + 1], tree)


class Chunks:
    """Reads long pieces of few texts, and draws several tokens of every text in one program, a forward pass each."""

    def __init__(self, engine):
        self.engine, self.chunk, self.steps = engine, engine.chunk, engine.chunk

    def read(self) -> bool:
        engine = self.engine
        limit = max(engine.prefill_chunk // (2 * LEAST_PIECE), 1)
        rows = engine.scheduler.rows_to_read(limit, engine.prefill_chunk)
        if not rows:
            return False
        size = power_of_two(len(rows))
        length = min(max(power_of_two(max(row.unread for row in rows)), LEAST_PIECE), engine.prefill_chunk // size)
        tokens_BT, count_B = stack_pieces([row.next_tokens(length) for row in rows], size, length)
        places = engine.places(rows, size, max(row.read for row in rows) + length)
        engine.dispatch(engine.programs_of.read_rows, places, tokens_BT, count_B)
        engine.finish_reading(rows, count_B)
        return True

    def groups(self, rows: list[Row]) -> list[list[Row]]:
        return groups_of_kinds(rows)

    def draw(self, rows: list[Row], steps: int) -> list[Outcome]:
        engine = self.engine
        places, batch = self.places_and_batch(rows)
        one = bool(rows[0].text.matchers)  # a constraint must see each token before the next
        arguments = (places, batch, np.int32(1 if one else min(self.chunk, steps)))
        fetched = engine.dispatch(engine.programs_of.decode_rows, *arguments, vocab_size=engine.vocab_size)
        return outcomes(fetched, [[] for _ in rows])

    def places_and_batch(self, rows: list[Row]) -> tuple[Places, Batch]:
        engine, size = self.engine, power_of_two(len(rows))
        places = engine.places(rows, size, max(len(row.pages) for row in rows) * engine.scheduler.pool.size)
        return places, stack_batch(rows, size, self.steps, engine.context, engine.vocab_size)


class Speculation(Chunks):
    """Draws along the drafts of a drafter; where it has none, a few tokens until it is asked again.

    Raises PromptError for a model whose memory can't go back.
    """

    def __init__(self, engine, drafter: Drafter, drafts: int):
        super().__init__(engine)
        require_pages(engine)
        self.drafter, self.drafts = drafter, drafts
        self.chunk, self.steps = min(self.chunk, UNDRAFTED), power_of_two(max(drafts + 1, UNDRAFTED))

    def draw(self, rows: list[Row], steps: int) -> list[Outcome]:
        engine = self.engine
        drafts = propose(self.drafter, rows, min(self.drafts, steps - 1), engine.context)
        if not any(drafts):
            return super().draw(rows, steps)
        places, batch = self.places_and_batch(rows)
        tokens = stack_drafts(rows, drafts, places, self.columns(drafts))
        fetched = engine.dispatch(engine.programs_of.advance_rows, tokens, batch, vocab_size=engine.vocab_size)
        return outcomes(fetched, drafts)

    def columns(self, drafts: list[list[int]]) -> int:
        """Tokens of a row in a forward pass, of two sizes: fewer programs."""
        half = self.steps // 2
        return half if all(len(draft) < half for draft in drafts) else self.steps


class InvariantTiles:
    """Reads everything in tiles of one size by one program, and draws from each text by a program of its own.

    So every bit of a text and its probabilities depends on its request and the model alone. Raises PromptError.
    """

    def __init__(self, engine, drafter: Drafter | None, tiles: Sequence[Tile]):
        self.engine, self.drafter, pool = engine, drafter, engine.scheduler.pool
        if drafter is not None:
            require_pages(engine)
        table = TableSize(engine.table_width(engine.context), pool.pages_for(engine.context))

        def read(memory, tokens: Tokens):
            memory, logits_BTV = engine.programs_of.read_tile(engine.leaves, memory, tokens)
            return logits_BTV, memory

        layout = PageLayout(pool.count, pool.size)
        self.tile, engine.memory = choose_tile(read, engine.memory, layout, table, engine.vocab_size, tiles)
        self.steps = self.piece = self.tile.columns  # tokens of a row in a tile that reads, at most

    def read(self) -> bool:
        rows = self.engine.scheduler.rows_to_read(self.tile.rows, self.piece)
        if rows:
            tokens_BT, count_B = stack_pieces([row.next_tokens(self.piece) for row in rows], *self.tile)
            self.read_tile(Tokens(*self.places(rows), tokens_BT, count_B, count_B, np.zeros(self.tile.rows, bool)))
            self.engine.finish_reading(rows, count_B)
        return bool(rows)

    def groups(self, rows: list[Row]) -> list[list[Row]]:
        return [rows[first : first + self.tile.rows] for first in range(0, len(rows), self.tile.rows)]

    def draw(self, rows: list[Row], steps: int) -> list[Outcome]:
        drafts = propose(self.drafter, rows, min(self.tile.columns, steps) - 1, self.engine.context)
        tokens = stack_drafts(rows, drafts, self.places(rows), self.tile.columns)
        logits_BTV = self.read_tile(tokens)
        drawn = [self.draw_row(logits_BTV, index, row, tokens) for index, row in enumerate(rows)]
        return [outcomes(fetched, [draft])[0] for fetched, draft in zip(drawn, drafts, strict=True)]

    def read_tile(self, tokens: Tokens) -> jax.Array:
        return self.engine.dispatch(self.engine.programs_of.read_tile, tokens)

    def draw_row(self, logits_BTV: jax.Array, index: int, row: Row, tokens: Tokens):
        """What one text draws: a program of its own, whose shapes follow from its own request."""
        engine = self.engine
        batch = stack_batch([row], 1, self.steps, engine.context, engine.vocab_size)
        arguments = (logits_BTV, np.int32(index), one_row(tokens, index), batch)
        engine.count_shapes(draw_row, arguments)
        return draw_row(*arguments, vocab_size=engine.vocab_size)

    def places(self, rows: list[Row]) -> Places:
        return self.engine.places(rows, self.tile.rows, self.engine.context)


def propose(drafter: Drafter | None, rows: list[Row], count: int, context: int) -> list[list[int]]:
    """At most `count` drafts of each text, and no more than it can still draw but one: none go past its last page. None
    where a constraint must see each token before the next."""
    if drafter is None or not count:
        return [[] for _ in rows]
    left = [0 if row.text.matchers else row.end(context) - len(row.text.ids) - 1 for row in rows]
    return [draft[:most] for draft, most in zip(drafter.propose(rows, count), left, strict=True)]


def require_pages(engine) -> None:
    """Raises PromptError where a row can't forget drafts that were wrong."""
    if not engine.scheduler.shares:
        raise PromptError(
            "drafts need a model that remembers keys and values alone, in pages: a recurrent state or a token shift "
            "can't forget wrong drafts; write without drafts"
        )
