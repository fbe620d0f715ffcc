"""Generates text: prompts in, tokens out as they are drawn. launch/ and the samples listener call Generator.

It runs two programs: `prefill` reads all of a prompt but its last token, `decode` draws up to CHUNK tokens a dispatch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from model.decode.chain import Chain, check_words, format_chain
from model.decode.comparison import ComparedSource, compare_tokens
from model.decode.completion import Completion
from model.decode.constraint import MatcherMaker, new_matchers, with_masks
from model.decode.draw import Requests, Texts, shard_rows, start
from model.decode.links.link import History
from model.decode.loop import CHUNK, DecodeState, decode
from model.decode.parameters import power_of_two
from model.decode.prompts import PromptError, check_prompt
from model.decode.ranking import reorder_ids, stream_ranked
from model.decode.sequence import SequenceState, stack_requests
from model.decode.sources import Source, branch_caches, compose
from model.leaves import jit_of_leaves
from model.sharding import shard, shard_count

SLOT_MULTIPLE = 64  # the number of slots of a cache is a multiple of this


class Windows(NamedTuple):
    """What prefill reads of one branch, all of each row's window but its last token, as arrays [B, …] of NumPy.

    `last_B`: those last tokens. `slots`: of the branch's cache.
    """

    tokens_BT: np.ndarray
    count_B: np.ndarray
    last_B: np.ndarray
    slots: int


class WindowBatch(NamedTuple):
    """Rows of text as arrays [B, …] of NumPy, to be decoded in one window of the context; `branches`: of the source."""

    branches: tuple[Windows, ...]
    history: History
    finished_B: np.ndarray
    requests: Requests


def prefill(source: Source, tokens_BT, count_B, slots: int, compares: bool = False):
    """Reads a batch of texts up to their last tokens: the first `count_B` of tokens [B, T], padded on the right."""
    source, tokens_BT = ComparedSource(source) if compares else source, shard(tokens_BT, "batch", None)
    cache = source.init_cache(tokens_BT.shape[0], slots)
    if not tokens_BT.shape[1]:  # texts of one token leave nothing to read
        return cache
    return source(tokens_BT, cache, shard(count_B, "batch"))[1]


@functools.lru_cache(maxsize=32)
def jitted_prefill(structure):
    """Jitted `prefill` of the leaves of a model with this tree structure."""
    return jit_of_leaves(prefill, structure, static_argnames=("slots", "compares"))


@functools.lru_cache(maxsize=32)
def jitted_decode(structures):
    """Jitted `decode` of the leaves of all models of a chain's source, which have these tree structures."""

    def decode_leaves(leaves, state, requests, steps, vocab_size):
        models = tuple(structure.unflatten(own) for structure, own in zip(structures, leaves, strict=True))
        source = compose(requests.chain.source, models, vocab_size)
        source = compare_tokens(source) if requests.chain.strategy.compares else source
        cache = tuple(branch._replace(first_B=shard_rows(branch.first_B)) for branch in state.cache)
        return decode(source, state._replace(cache=cache), requests, steps, vocab_size)

    return jax.jit(decode_leaves, static_argnames="vocab_size", donate_argnums=1)


class DecodingModel:
    """A model whose weights are prepared for decoding once (Transformer.for_decoding). `context`: tokens it can see."""

    def __init__(self, model, context: int):
        self.context, self.shows_hidden = context, hasattr(model, "with_hidden")
        self.leaves, self.structure = jax.tree.flatten(jax.jit(type(model).for_decoding)(model))

    def prefill(self, windows: Windows, compares: bool = False):
        """The cache of a branch that has read these windows; a ComparedCache if it `compares` tokens."""
        static = {"slots": windows.slots, "compares": compares}
        return jitted_prefill(self.structure)(self.leaves, windows.tokens_BT, windows.count_B, **static)


start_texts = jax.jit(start, static_argnames="vocab_size")


class Generator:
    """Generates text with a model.

    `vocab_size`: ids from this one on are padding of the vocabulary, never drawn. `context`: tokens the model can see;
    a text that outgrows it goes on from its newest half, read anew. With a mesh set, the batch is split over it.
    `models`: by the names that chains have for them; "" is this one, the caller adds those of other runs.
    `matcher_maker`: for chains with a constraint.
    """

    def __init__(
        self, model, *, vocab_size: int, context: int, chunk: int = CHUNK, matcher_maker: MatcherMaker | None = None
    ):
        self.vocab_size, self.context, self.chunk = vocab_size, context, min(chunk, CHUNK)
        self.models = {"": DecodingModel(model, context)}
        self.matcher_maker = matcher_maker

    def generate(self, prompts: Sequence[Sequence[int]], **request) -> list[Completion]:
        """All that `stream` yields, as one Completion a row."""
        rows: list[Completion] = []
        for pieces in self.stream(prompts, **request):
            rows = rows or [Completion() for _ in pieces]
            for row, piece in zip(rows, pieces, strict=True):
                row.extend(piece)
        return rows

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        chain: Chain | Sequence[Chain],
        max_new_tokens: int,
        seed: int | Sequence[int] = 0,
        samples: int = 1,
        stop_ids: Sequence[int] = (),
    ) -> Iterator[list[Completion]]:
        """Yields every row's new tokens since the last time, rows in order of prompt, then sample.

        Chain and seed are one for all, or one a prompt; all chains are of the same kinds. A row's text depends on its
        prompt, seed, sample index and chain alone; where several rows write it, all of it comes last. The samples of a
        search are the best texts that it finds, whatever the seed. Raises PromptError, SamplerError, at the call.
        """
        self.check(prompts, max_new_tokens, samples)
        for one in [chain] if isinstance(chain, Chain) else chain:
            check_words(one)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        chains = [chain] * len(prompts) if isinstance(chain, Chain) else list(chain)
        self.check_chains(chains, samples)
        strategy = chains[0].strategy
        searches = 1 if strategy.searches else samples
        rows = [
            SequenceState(list(prompt), chain, seed, sample, len(prompt), len(prompt) + max_new_tokens)
            for prompt, chain, seed in zip(prompts, chains, seeds, strict=True)
            for sample in range(searches * strategy.rows)
        ]
        for row in rows:
            row.matchers = new_matchers(self.matcher_maker, row.chain, row.ids, stop_ids)
        pieces = self.stream_windows(rows, list(dict.fromkeys(stop_ids)))
        return pieces if strategy.streams else stream_ranked(pieces, rows, samples if strategy.searches else 1)

    def stream_windows(self, rows: list[SequenceState], stop_ids: list[int]) -> Iterator[list[Completion]]:
        """Generates until every row is finished: one window of the context after another, each row at its own pace."""
        while unfinished := [row for row in rows if not row.finish_reason]:
            for pieces in self.stream_window(unfinished, stop_ids):
                pieces_by_id = {id(row): piece for row, piece in zip(unfinished, pieces, strict=True)}
                yield [pieces_by_id.get(id(row)) or Completion(finish_reason=row.finish_reason) for row in rows]

    def stream_window(self, rows: list[SequenceState], stop_ids: list[int]) -> Iterator[list[Completion]]:
        """Runs prefill, then decode until all rows are finished or have filled their window."""
        batch, chain = self.batch(rows, stop_ids), rows[0].chain
        runs, compares = chain.source.runs, [chain.strategy.compares] + [False] * (len(chain.source.runs) - 1)
        branches = zip(runs, batch.branches, compares, strict=True)
        caches = [self.models[run].prefill(branch, compared) for run, branch, compared in branches]
        cache = branch_caches(caches, [branch.last_B for branch in batch.branches])
        state, models = DecodeState(cache, self.texts(rows, batch)), [self.models[run] for run in dict.fromkeys(runs)]
        decode, leaves = jitted_decode(tuple(m.structure for m in models)), [model.leaves for model in models]
        finished_B, limits, steps = batch.finished_B, batch.requests.limit_B, 1  # who reads it sees a first token soon
        while not all(row.finish_reason or finished_B[index] for index, row in enumerate(rows)):
            ended_B = np.array([bool(row.finish_reason) for row in rows] + [True] * (len(finished_B) - len(rows)))
            requests = batch.requests._replace(limit_B=np.where(ended_B, 0, limits))
            step = (state, *self.next_draws(rows, requests, steps))
            state, fetched = decode(leaves, *step, vocab_size=self.vocab_size)
            steps = self.chunk
            # Waits for every device: what else may be dispatched in between must not find one still at work.
            finished_before_B, (drawn, finished_B) = finished_B, jax.device_get(jax.block_until_ready(fetched))
            pieces = []
            for index, row in enumerate(rows):
                if row.finish_reason or finished_before_B[index]:
                    pieces.append(Completion(finish_reason=row.finish_reason))
                else:
                    draws = jax.tree.map(lambda x, index=index: x[index], drawn)
                    pieces.append(row.add(draws, finished_B[index], limits[index]))
            yield pieces
        if jax.tree.leaves(state.texts.memories):
            memories = jax.device_get(jax.tree.map(lambda x: shard(x, *[None] * x.ndim), state.texts.memories))
            for index, row in enumerate(rows):
                row.memories = jax.tree.map(lambda x, index=index: x[index : index + 1], memories)
        if chain.strategy.searches:
            reorder_ids(rows)

    def next_draws(self, rows: list[SequenceState], requests: Requests, steps: int) -> tuple[Requests, np.int32]:
        """The requests for the next dispatch, and its number of tokens: `steps`, or one where constraints must see each
        before the next."""
        if not rows[0].matchers:
            return requests, np.int32(steps)
        masks_BW = [np.stack(masks) for masks in zip(*(row.masks() for row in rows), strict=True)]
        missing = len(requests.limit_B) - len(rows)
        masks_BW = [np.pad(mask_BW, ((0, missing), (0, 0))) for mask_BW in masks_BW]
        return requests._replace(chain=with_masks(requests.chain, masks_BW)), np.int32(1)

    def batch(self, rows: list[SequenceState], stop_ids: list[int]) -> WindowBatch:
        """The rows as arrays of few shapes: the number of texts is padded to a power of two.

        A row's limit is its request's, or where its first branch fills its context. The rows of a search stay together,
        on one shard of the mesh.
        """
        strategy = rows[0].chain.strategy
        together = strategy.rows if strategy.searches else 1
        size = together * math.lcm(power_of_two(len(rows) // together), shard_count("batch"))
        contexts = [self.models[run].context for run in rows[0].chain.source.runs]
        windows = [row.windows(contexts) for row in rows]
        room = [
            min(row.last_step - len(row.ids), *(context - len(w) for context, w in zip(contexts, own, strict=True)))
            for row, own in zip(rows, windows, strict=True)
        ]
        branches = tuple(
            pad_windows([own[branch] for own in windows], room, context, size)
            for branch, context in enumerate(contexts)
        )
        capacity = max(branches[0].slots, round_up(max(row.limit for row in rows), SLOT_MULTIPLE))
        history_BS = np.zeros((size, capacity), np.int32)
        length_B, prompt_B, limit_B = (np.ones(size, np.int32) for _ in range(3))
        for index, row in enumerate(rows):
            history_BS[index, : len(row.ids)], length_B[index], prompt_B[index] = row.ids, len(row.ids), row.prompt
            limit_B[index] = len(row.ids) + room[index]
        requests = stack_requests(rows, limit_B, [stop_ids] * len(rows))
        history, finished_B = History(history_BS, length_B, prompt_B), np.arange(size) >= len(rows)
        return WindowBatch(branches, history, finished_B, requests)

    def texts(self, rows: list[SequenceState], batch: WindowBatch) -> Texts:
        """The texts of a batch: with new memories, or with those that the rows have from the window before."""
        texts = start_texts(batch.history, batch.requests.chain, batch.finished_B, vocab_size=self.vocab_size)
        kept = [row.memories for row in rows]
        if kept[0] is None:
            return texts
        missing = len(batch.finished_B) - len(rows)
        memories = jax.tree.map(lambda *x: np.concatenate([*x, *[x[0]] * missing]), *kept)
        return texts._replace(memories=memories)

    def check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, samples: int):
        """Raises PromptError for a request that can't be served."""
        if not prompts or max_new_tokens < 1 or samples < 1:
            values = f"{len(prompts)} prompts, max_new_tokens {max_new_tokens}, samples {samples}"
            raise PromptError(f"{values}: each must be at least 1")
        for index, prompt in enumerate(prompts):
            check_prompt(f"prompt {index}", prompt, self.vocab_size, self.context)

    def check_chains(self, chains: Sequence[Chain], samples: int):
        """Raises PromptError for chains that one batch can't have, or whose source can't be made here."""
        strategy = chains[0].strategy
        if strategy.searches and samples > strategy.texts:
            shown, texts = format_chain(Chain((), strategy)), f"{strategy.texts} text{'s' * (strategy.texts > 1)}"
            raise PromptError(f"{samples} samples of {shown}, which finds {texts}; ask for {strategy.texts} at most")
        if len({chain.kinds for chain in chains}) > 1:
            raise PromptError("the chains of one batch differ in their links; ask for those of each kind apart")
        for chain in chains:
            if strategy.searches and any(end.detector() for end in chain.ends):
                raise PromptError(f"{format_chain(chain)}: max_repeats follows one text, and a search writes many")
            if missing := [run for run in chain.source.runs if run not in self.models]:
                raise PromptError(f"{format_chain(chain)}: the model of {missing[0]} is not loaded")
            if strategy.compares and not self.models[chain.source.runs[0]].shows_hidden:
                raise PromptError(f"{format_chain(chain)}: it compares hidden states, and this model shows none")
            for own in filter(None, chain.source.texts([], 0)):
                check_prompt(f"the prompt in {format_chain(chain)}", own, self.vocab_size, self.context)


def pad_windows(windows: Sequence[list[int]], room: Sequence[int], context: int, size: int) -> Windows:
    """The windows of one branch in few shapes: their length padded to a power of two, slots to SLOT_MULTIPLE.

    `room`: the new tokens that each row may add. `size`: rows to pad to.
    """
    longest = max(map(len, windows))
    length = min(max(power_of_two(longest - 1), 16), context) if longest > 1 else 0
    filled = max(len(window) + new for window, new in zip(windows, room, strict=True))
    tokens_BT, count_B, last_B = np.zeros((size, length), np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    for index, window in enumerate(windows):
        tokens_BT[index, : len(window) - 1], count_B[index], last_B[index] = window[:-1], len(window) - 1, window[-1]
    return Windows(tokens_BT, count_B, last_B, slots=min(round_up(max(filled, length), SLOT_MULTIPLE), context))


def round_up(count: int, multiple: int) -> int:
    """The least multiple that is at least `count`."""
    return -(-count // multiple) * multiple
