"""Generates text: prompts in, tokens out as they are drawn. launch/ and the samples listener call Generator.

It runs two programs: `prefill` reads all of a prompt but its last token, `decode` draws up to CHUNK tokens a dispatch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.decode.chain import Chain
from model.decode.links import History, LinkState
from model.decode.sources import Source
from model.decode.strategies import row_keys
from model.sharding import shard, shard_count

CHUNK = 16  # tokens a dispatch at most: a caller that streams text gets no more than this at once
SLOT_MULTIPLE = 64  # the number of slots of a cache is a multiple of this


class PromptError(ValueError):
    """A request can't be served; the message is one line with the prompt, what is wrong and what works."""


class PromptTooLong(PromptError):
    """A prompt leaves no room in the context for a new token."""


@dataclass
class Completion:
    """The new tokens of one row: all (`generate`), or those since the last time (`stream`). They include no stop id.

    `log_probabilities` are natural logarithms, by the model itself; `chain_log_probabilities` after the chain.
    """

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    chain_log_probabilities: list[float] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None  # None: not finished


class Requests(NamedTuple):
    """The request of each row. All of it is arrays, so that one program serves every request of its shape."""

    seed_BW: jax.Array  # uint32, two words
    sample_B: jax.Array
    start_B: jax.Array  # tokens of the row that come before those in the cache
    limit_B: jax.Array  # tokens of the row, prompt included, at which it ends
    stop_BE: jax.Array  # ids that end the row; -1 is none


class DecodeState(NamedTuple):
    """A batch during decoding. The cache holds each row's tokens but the last, which the next step reads."""

    cache: Any
    history: History
    memories: tuple  # of the chain's links
    last_B: jax.Array
    finished_B: jax.Array


class DrawnTokens(NamedTuple):
    """The tokens [B, C] of one dispatch, -1 where a row drew none or ended, with their log-probabilities."""

    tokens_BC: jax.Array
    log_probability_BC: jax.Array
    chain_log_probability_BC: jax.Array


def prefill(source: Source, tokens_BT, history: History, finished_B, slots: int, chain: Chain, vocab_size: int):
    """Reads a batch of prompts up to their last tokens. tokens [B, T]: the prompts, padded on the right."""
    tokens_BT, finished_B = shard(tokens_BT, "batch", None), shard(finished_B, "batch")
    prompt_B = shard(history.prompt_B, "batch")
    history = History(shard(history.tokens_BS, "batch", None), prompt_B, prompt_B)
    cache = source.init_cache(tokens_BT.shape[0], slots)
    if tokens_BT.shape[1]:  # prompts of one token leave nothing to read
        _, cache = source(tokens_BT, cache, prompt_B - 1)
    memories = tuple(link.start(history, vocab_size) for link in chain.links)
    last_BS = jnp.where(jnp.arange(history.tokens_BS.shape[1]) == prompt_B[:, None] - 1, history.tokens_BS, 0)
    return DecodeState(cache, history, memories, last_BS.sum(-1), finished_B)


def decode(source: Source, state: DecodeState, requests: Requests, steps, chain: Chain, vocab_size: int):
    """Draws up to `steps` <= CHUNK tokens for every row, fewer when all are finished.

    Returns the state after them, and what the caller is to fetch: (DrawnTokens, finished [B]).
    """
    requests = Requests(*(shard(x, "batch", *[None] * (x.ndim - 1)) for x in requests))
    rows = requests.limit_B.shape[0]
    empty = shard(jnp.zeros((rows, CHUNK)), "batch", None)
    drawn = DrawnTokens(empty.astype(jnp.int32) - 1, empty, empty)

    def unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.finished_B.all()

    def draw(carry):
        step, state, drawn = carry
        active_B = ~state.finished_B
        logits_BTV, cache = source(state.last_B[:, None], state.cache, active_B.astype(jnp.int32))
        logits_BV = shard(logits_BTV[:, 0].astype(jnp.float32), "batch", None)
        logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < vocab_size, logits_BV, -jnp.inf)
        memories, token_B, chain_logits_BV = apply_chain(chain, state, requests, logits_BV)
        results = (token_B, log_probability(logits_BV, token_B), log_probability(chain_logits_BV, token_B))
        stopped_B = (token_B[:, None] == requests.stop_BE).any(-1)
        results = (jnp.where(active_B & ~stopped_B, token_B, -1), *results[1:])
        mask_C = jnp.arange(CHUNK) == step
        drawn = DrawnTokens(*(jnp.where(mask_C, new[:, None], old) for new, old in zip(results, drawn, strict=True)))
        history = append_token(state.history, token_B, active_B)
        finished_B = state.finished_B | stopped_B | (history.length_B >= requests.limit_B)
        last_B = jnp.where(active_B, token_B, state.last_B)
        return step + 1, DecodeState(cache, history, memories, last_B, finished_B), drawn

    _, state, drawn = jax.lax.while_loop(unfinished, draw, (jnp.int32(0), state, drawn))
    finished_B = shard(state.finished_B, None)
    return state, (DrawnTokens(*(shard(x, None, None) for x in drawn)), finished_B)  # whole: every process reads it


def apply_chain(chain: Chain, decode_state: DecodeState, requests: Requests, logits_BV):
    """Runs the chain: returns the links' memories, the tokens [B], and the logits [B, V] they were drawn from."""
    history, memories = decode_state.history, []
    key_B = row_keys(requests.seed_BW, requests.sample_B, requests.start_B + history.length_B)
    for index, link in enumerate(chain.links):
        link_key_B = jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(key_B)
        link_state, logits_BV = link(LinkState(history, decode_state.memories[index]), logits_BV, link_key_B)
        memories.append(link_state.memory)
    return tuple(memories), chain.strategy(logits_BV, key_B), logits_BV


def log_probability(logits_BV, token_B):
    """The natural logarithm of one token's probability in each row. [B, V], [B] -> [B]."""
    chosen_BV = jnp.arange(logits_BV.shape[1]) == token_B[:, None]
    return jnp.where(chosen_BV, logits_BV, 0).sum(-1) - jax.nn.logsumexp(logits_BV, axis=-1)


def append_token(history: History, token_B, active_B) -> History:
    """The history with one more token in each active row."""
    next_BS = (jnp.arange(history.tokens_BS.shape[1]) == history.length_B[:, None]) & active_B[:, None]
    return History(
        jnp.where(next_BS, token_B[:, None], history.tokens_BS), history.length_B + active_B, history.prompt_B
    )


@dataclass
class SequenceState:
    """A sequence while it is generated: its ids, prompt first, and whether it is finished."""

    ids: list[int]
    seed: int
    sample: int
    limit: int  # number of ids at which it is complete
    finish_reason: Literal["stop", "length"] | None = None

    def window(self, context: int) -> list[int]:
        """The ids to read before the next token: all, or the newest half of the context if all would leave no room."""
        return self.ids if len(self.ids) < context else self.ids[-(context // 2) :]


@functools.lru_cache(maxsize=32)
def jitted_programs(structure):
    """Jitted `prefill` and `decode` of the leaves of sources with this tree structure: modules flatten more slowly."""

    def prefill_leaves(leaves, *arguments, **static):
        return prefill(structure.unflatten(leaves), *arguments, **static)

    def decode_leaves(leaves, *arguments, **static):
        return decode(structure.unflatten(leaves), *arguments, **static)

    return (
        jax.jit(prefill_leaves, static_argnames=("slots", "chain", "vocab_size")),
        jax.jit(decode_leaves, static_argnames=("chain", "vocab_size"), donate_argnums=1),
    )


class Generator:
    """Generates text with a model, whose weights it prepares for decoding once (Transformer.for_decoding).

    `vocab_size`: ids from this one on are padding of the vocabulary, never drawn. `context`: tokens the model can see;
    a text that outgrows it goes on from its newest half, read anew. With a mesh set, the batch is split over it.
    """

    def __init__(self, model, *, vocab_size: int, context: int, chunk: int = CHUNK):
        self.vocab_size, self.context, self.chunk = vocab_size, context, min(chunk, CHUNK)
        self.leaves, structure = jax.tree.flatten(jax.jit(type(model).for_decoding)(model))
        self.prefill, self.decode = jitted_programs(structure)

    def generate(self, prompts: Sequence[Sequence[int]], **request) -> list[Completion]:
        """All that `stream` yields, as one Completion a row."""
        rows: list[Completion] = []
        for pieces in self.stream(prompts, **request):
            rows = rows or [Completion() for _ in pieces]
            for row, piece in zip(rows, pieces, strict=True):
                row.tokens += piece.tokens
                row.log_probabilities += piece.log_probabilities
                row.chain_log_probabilities += piece.chain_log_probabilities
                row.finish_reason = piece.finish_reason
        return rows

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        chain: Chain,
        max_new_tokens: int,
        seed: int | Sequence[int] = 0,
        samples: int = 1,
        stop_ids: Sequence[int] = (),
    ) -> Iterator[list[Completion]]:
        """Yields every row's new tokens since the last time, rows in order of prompt, then sample.

        A row's text depends on its prompt, seed (one for all, or one a prompt), sample index and chain alone.
        Raises PromptError, at the call.
        """
        self.check(prompts, max_new_tokens, samples)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        rows = [
            SequenceState(list(prompt), seed, sample, len(prompt) + max_new_tokens)
            for prompt, seed in zip(prompts, seeds, strict=True)
            for sample in range(samples)
        ]
        return self.stream_windows(rows, list(stop_ids), chain)

    def stream_windows(
        self, rows: list[SequenceState], stop_ids: list[int], chain: Chain
    ) -> Iterator[list[Completion]]:
        """Generates until every row is finished: one window of the context after another, each row at its own pace."""
        while unfinished := [row for row in rows if not row.finish_reason]:
            for pieces in self.stream_window(unfinished, stop_ids, chain):
                pieces_by_id = {id(row): piece for row, piece in zip(unfinished, pieces, strict=True)}
                yield [pieces_by_id.get(id(row)) or Completion(finish_reason=row.finish_reason) for row in rows]

    def stream_window(self, rows: list[SequenceState], stop_ids: list[int], chain: Chain) -> Iterator[list[Completion]]:
        """Runs prefill, then decode until all rows are finished or have filled their window."""
        requests, history, finished_B, tokens_BT = self.batch(rows, stop_ids)
        static = {"chain": chain, "vocab_size": self.vocab_size}
        slots = history.tokens_BS.shape[1]
        state = self.prefill(self.leaves, tokens_BT, history, finished_B, slots=slots, **static)
        remaining = (requests.limit_B - history.prompt_B).tolist()
        while not finished_B.all():
            state, fetched = self.decode(self.leaves, state, requests, np.int32(self.chunk), **static)
            # Waits for every device: what else may be dispatched in between must not find one still at work.
            finished_before_B, (drawn, finished_B) = finished_B, jax.device_get(jax.block_until_ready(fetched))
            pieces = []
            for index, row in enumerate(rows):
                count = 0 if finished_before_B[index] else int((drawn.tokens_BC[index] >= 0).sum())
                columns = [column[index, :count].tolist() for column in drawn]
                row.ids += columns[0]
                remaining[index] -= count
                if len(row.ids) == row.limit:
                    row.finish_reason = "length"
                elif finished_B[index] and remaining[index]:
                    row.finish_reason = "stop"
                pieces.append(Completion(*columns, finish_reason=row.finish_reason))
            yield pieces

    def batch(self, rows: list[SequenceState], stop_ids: list[int]):
        """The rows as arrays of few shapes: rows and prompts padded to powers of two, slots to SLOT_MULTIPLE."""
        size = math.lcm(power_of_two(len(rows)), shard_count("batch"))
        windows = [row.window(self.context) for row in rows]
        longest = max(map(len, windows))
        length = min(max(power_of_two(longest - 1), 16), self.context) if longest > 1 else 0
        limits = [min(self.context, len(w) + row.limit - len(row.ids)) for row, w in zip(rows, windows, strict=True)]
        slots = min(-(-max(*limits, length) // SLOT_MULTIPLE) * SLOT_MULTIPLE, self.context)
        tokens_BS, prompt_B = np.zeros((size, slots), np.int32), np.ones(size, np.int32)
        seed_BW, sample_B, start_B = np.zeros((size, 2), np.uint32), np.zeros(size, np.int32), np.zeros(size, np.int32)
        limit_B = np.ones(size, np.int32)
        for index, (row, window, limit) in enumerate(zip(rows, windows, limits, strict=True)):
            tokens_BS[index, : len(window)], prompt_B[index], limit_B[index] = window, len(window), limit
            seed_BW[index], sample_B[index] = divmod(row.seed % 2**64, 2**32), row.sample
            start_B[index] = len(row.ids) - len(window)
        stop_BE = np.full((size, power_of_two(max(len(stop_ids), 4))), -1, np.int32)
        stop_BE[:, : len(stop_ids)] = stop_ids
        requests = Requests(seed_BW, sample_B, start_B, limit_B, stop_BE)
        return requests, History(tokens_BS, prompt_B, prompt_B), np.arange(size) >= len(rows), tokens_BS[:, :length]

    def check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, samples: int):
        """Raises PromptError for a request that can't be served."""
        if not prompts or max_new_tokens < 1 or samples < 1:
            values = f"{len(prompts)} prompts, max_new_tokens {max_new_tokens}, samples {samples}"
            raise PromptError(f"{values}: each must be at least 1")
        for index, prompt in enumerate(prompts):
            if not len(prompt):
                raise PromptError(f"prompt {index} is empty; it needs one token at least, such as the end-of-text id")
            if not 0 <= min(prompt) <= max(prompt) < self.vocab_size:
                invalid = next(token for token in prompt if not 0 <= token < self.vocab_size)
                raise PromptError(f"prompt {index} holds the id {invalid}; ids go from 0 to {self.vocab_size - 1}")
            if len(prompt) >= self.context:
                raise PromptTooLong(
                    f"prompt {index} has {len(prompt)} tokens and the model's context is {self.context}: "
                    f"{self.context - 1} at most leave room to write; shorten it"
                )


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
