"""Continuous batching: many requests at once, each of its own prompt, chain, seed and length (Yu et al. 2022, "Orca").

A caller submits requests and calls `step` again and again; launch/ does, for `--prompts`. A step reads a piece of the
prompts and draws some tokens of every text that is read. scheduler.py decides which, programs.py are what devices run.
A request's text is what Generator writes for it alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from model.cache import PageLayout
from model.decode.chain import Chain, check_words
from model.decode.completion import Completion
from model.decode.compositions import Alone
from model.decode.constraint import MatcherMaker, new_matchers
from model.decode.decoding import LEAST_PIECE, Chunks, InvariantTiles, Speculation
from model.decode.invariance import TILES
from model.decode.loop import CHUNK
from model.decode.pages import PagePool
from model.decode.parameters import power_of_two
from model.decode.programs import Places, jitted_programs
from model.decode.prompts import PromptError, check_prompt
from model.decode.scheduler import Row, Scheduler
from model.decode.sequence import SequenceState
from model.decode.speculation import Drafter
from model.sharding import ShardingError, shard_count

LEAST_SLOTS = 64  # of a row in a dispatch
DRAWS_WHILE_READING = 4  # tokens of a text in a step that also reads: those who wait for their first wait no longer
MEMORY_BYTES = 2 << 30  # of pages, where their number is not given


@dataclass(frozen=True)
class Request:
    """A text to be written. It depends on these values and on the model alone."""

    prompt: Sequence[int]
    chain: Chain
    max_new_tokens: int
    seed: int = 0
    sample: int = 0
    stop_ids: Sequence[int] = ()


class Engine:
    """Writes the texts of many requests at once with a model, whose weights it prepares for decoding once.

    `vocab_size`, `context`: as Generator's. `slots`: texts at once; `waiting`: texts in the queue at most. `page_size`:
    tokens of a page; `pages`: how many all texts share, page 0 included (default: what the slots can need, if that fits
    MEMORY_BYTES). `prefill_chunk`: tokens that a step reads at most, of all texts together; `chunk`: tokens that it
    draws of each text at most.

    On a mesh the heads are split over `tensor`; raises ShardingError where an axis would split rows.
    """

    def __init__(
        self,
        model,
        *,
        vocab_size: int,
        context: int,
        slots: int = 64,
        page_size: int = 16,
        pages: int | None = None,
        prefill_chunk: int = 256,
        waiting: int = 1024,
        chunk: int = CHUNK,
        draft: Drafter | None = None,
        drafts: int = 15,
        invariant: bool = False,
        matcher_maker: MatcherMaker | None = None,
    ):
        if not hasattr(model, "init_pages"):
            raise PromptError(f"{type(model).__name__} has no memory in pages, which an engine needs; use Generator")
        if shard_count("batch") > 1:
            raise ShardingError(
                f"mesh: {shard_count('batch')} devices split the rows, which an engine's pages can't follow; "
                "give these devices to mesh.tensor, or run an engine for each of them"
            )
        self.matcher_maker = matcher_maker
        self.vocab_size, self.context, self.chunk = vocab_size, context, min(chunk, CHUNK)
        self.slots, self.prefill_chunk = slots, max(power_of_two(prefill_chunk + 1) // 2, LEAST_PIECE)
        self.leaves, self.structure = jax.tree.flatten(jax.jit(type(model).for_decoding)(model))
        self.programs_of = jitted_programs(self.structure)
        pages = pages or self.default_pages(page_size)
        self.memory = jax.jit(lambda: self.source.init_pages(slots + 1, PageLayout(pages, page_size)))()
        shares = self.source.lies_in_pages(self.memory)
        self.scheduler = Scheduler(slots, PagePool(pages, page_size), context, waiting, shares)
        self.numbers = itertools.count()
        self.rows: dict[int, Row] = {}  # not finished
        self.cancelled: list[int] = []
        self.shapes: set = set()  # of the arguments of all dispatches
        self.tokens_read = 0
        if invariant:
            self.decoding = InvariantTiles(self, draft, TILES)
        elif draft is not None:
            self.decoding = Speculation(self, draft, drafts)
        else:
            self.decoding = Chunks(self)

    @property
    def source(self):
        return self.structure.unflatten(self.leaves)

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self.rows or self.cancelled)

    @property
    def programs(self) -> int:
        """How many programs the dispatches so far needed. Sizes are powers of two: it grows with their logarithms."""
        return len(self.shapes)

    @property
    def tokens_found(self) -> int:
        """Tokens of prompts that lay in pages already, and were not read again."""
        return self.scheduler.tokens_found

    def submit(self, request: Request) -> int:
        """Puts a request into the queue: its number, by which `step` names it. Raises PromptError, QueueFull."""
        self.check(request)
        prompt, r = list(request.prompt), request
        text = SequenceState(prompt, r.chain, r.seed, r.sample, len(prompt), len(prompt) + r.max_new_tokens)
        text.matchers = new_matchers(self.matcher_maker, r.chain, prompt, r.stop_ids)
        row = Row(next(self.numbers), text, tuple(r.stop_ids))
        self.scheduler.submit(row)
        self.rows[row.number] = row
        return row.number

    def cancel(self, number: int) -> bool:
        """Ends a request; the next step says so. False if it is finished already."""
        row = self.rows.pop(number, None)
        if row is None:
            return False
        self.scheduler.cancel(row)
        self.cancelled.append(number)
        return True

    def step(self) -> list[tuple[int, Completion]]:
        """Goes on with all texts that have a place: (number, its new tokens and how it ended, if it did) of each."""
        events = [(number, Completion(finish_reason="cancelled")) for number in self.cancelled]
        self.cancelled.clear()
        self.scheduler.admit()
        steps = min(self.decoding.steps, DRAWS_WHILE_READING) if self.decoding.read() else self.decoding.steps
        for rows in self.decoding.groups(self.scheduler.rows_to_decode(steps)):
            events += self.decode(rows, steps)
        jax.block_until_ready(self.memory)  # what else may be dispatched in between must find no device at work
        return events

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        """Writes the texts of all requests, and yields what `step` does, by the index of the request.

        The engine must not be busy: what it says of other texts would be lost. Raises RuntimeError, PromptError."""
        if self.busy:
            raise RuntimeError(f"{len(self.rows)} requests are not finished; call step until the engine is not busy")
        requests, index_of = enumerate(requests), {}
        while True:
            while not self.scheduler.full and (item := next(requests, None)):
                index_of[self.submit(item[1])] = item[0]
            if not self.busy:
                return
            for number, piece in self.step():
                yield index_of[number], piece

    def check(self, request: Request) -> None:
        """Raises PromptError for a request that can't be served."""
        if request.max_new_tokens < 1:
            raise PromptError(f"max_new_tokens {request.max_new_tokens}: it must be at least 1")
        check_prompt("the prompt", request.prompt, self.vocab_size, self.context)
        check_words(request.chain)
        if not isinstance(request.chain.source, Alone):
            raise PromptError(f"{request.chain} reads several texts, and an engine reads one; use Generator")
        if request.chain.strategy.rows > 1:
            raise PromptError(
                f"{request.chain} writes a text in {request.chain.strategy.rows} rows, and an engine has one for each; "
                "use Generator"
            )
        tokens = min(self.context, len(request.prompt) + request.max_new_tokens)
        pool = self.scheduler.pool
        if pool.pages_for(tokens - 1) > pool.count - 1:
            raise PromptError(
                f"a text of {tokens} tokens needs {pool.pages_for(tokens - 1)} pages of {pool.size} and the engine has "
                f"{pool.count - 1}: {(pool.count - 1) * pool.size + 1} tokens at most fit, prompt and new ones together"
            )

    def finish_reading(self, rows: list[Row], count_B: np.ndarray) -> None:
        """Takes note of pieces that were read."""
        for row, count in zip(rows, count_B.tolist()[: len(rows)], strict=True):
            row.read += count
            self.tokens_read += count
            self.scheduler.advance(row)

    def decode(self, rows: list[Row], steps: int) -> list[tuple[int, Completion]]:
        """Draws up to so many tokens of some texts."""
        events = []
        for row, outcome in zip(rows, self.decoding.draw(rows, steps), strict=True):
            draws = jax.tree.map(lambda x: x[0], outcome.drawn)
            piece = row.text.add(draws, outcome.finished, row.end(self.context))
            piece.drafted, piece.accepted = len(outcome.drafts), outcome.accepted
            row.text.memories = outcome.memories
            row.read = row.length - 1
            self.tokens_read += len(piece.tokens)
            if row.text.finish_reason:
                del self.rows[row.number]
            self.scheduler.advance(row)
            events.append((row.number, piece))
        return events

    def table_width(self, slots: int) -> int:
        """Entries of a row's table of pages, for so many slots."""
        return power_of_two(self.scheduler.pool.pages_for(max(slots, LEAST_SLOTS)))

    def places(self, rows: list[Row], size: int, slots: int) -> Places:
        """Where so many rows lie, padded by waste; pages for `slots` of each."""
        count = self.table_width(slots)
        row_B, length_B = np.full(size, self.slots, np.int32), np.zeros(size, np.int32)
        pages_Bn = np.zeros((size, count), np.int32)
        for index, row in enumerate(rows):
            row_B[index], length_B[index] = row.slot, row.read
            pages_Bn[index, : len(row.pages)] = row.pages[:count]
        return Places(row_B, length_B, pages_Bn)

    def dispatch(self, program, *arguments, **static):
        """Runs a program on the memory; returns what it returns beside it."""
        self.count_shapes(program, arguments)
        self.memory, result = program(self.leaves, self.memory, *arguments, **static)
        return result

    def count_shapes(self, program, arguments) -> None:
        """Counts a program as another one if its arguments have new shapes."""
        leaves, structure = jax.tree.flatten(arguments)
        self.shapes.add((program, structure, tuple((x.shape, str(x.dtype)) for x in leaves)))

    def default_pages(self, page_size: int) -> int:
        """Pages for whole contexts in all slots, or as many as MEMORY_BYTES hold, but for one context at least."""

        def size(pages: int) -> int:
            shapes = jax.eval_shape(lambda: self.source.init_pages(1, PageLayout(pages, page_size)))
            return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

        context = -(-self.context // page_size)
        fitting = MEMORY_BYTES // max(size(2) - size(1), 1)
        return 1 + max(context, min(self.slots * context, fitting))
