"""Programs that score continuations of prompts: a prompt is read once, and copies of its cache go on with each.

launch/inference/likelihood.py decides which rows stand together. Rows of one device stay there: nothing moves between
devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from model.cache import last_input
from model.decode.text_rows import join_texts as join_devices
from model.decode.text_rows import split_texts
from model.layers import at_least_float32
from model.leaves import jit_of_leaves
from model.sharding import join_within_shards, shard, shard_count, split_within_shards
from train import loss

LOGITS_TOKENS = 1024  # whose logits a device holds at once


class Likelihoods(NamedTuple):
    """Of targets: -log p in nats, float32, and whether each is the most likely token."""

    nats: jax.Array
    is_greedy: jax.Array


class PromptsRead(NamedTuple):
    """Prompts that were read: the model's cache, and of the token behind each the logits, float32 [B, V]."""

    cache: Any
    logits_BV: jax.Array


def read(model, cache: Any, tokens_BT, count_B) -> tuple[jax.Array, Any]:
    """The last hidden states [B, T, D] of each row's first `count_B` tokens, and the cache with them."""
    _, hidden_BTD, cache = model.with_hidden(shard(tokens_BT, "batch", None), cache, shard(count_B, "batch"))
    return hidden_BTD, cache


def read_prompts(model, cache: Any, tokens_BT, count_B, vocab_size: int) -> PromptsRead:
    """Goes on from a cache with a prompt, or the rest of one, a row. Ids from `vocab_size` on are padding."""
    hidden_BTD, cache = read(model, cache, tokens_BT, count_B)
    last_B1D = last_input(hidden_BTD, hidden_BTD[:, :1], shard(count_B, "batch"))
    return PromptsRead(cache, at_least_float32(model.logits(last_B1D, shard))[:, 0, :vocab_size])


def start_prompts(model, tokens_BT, count_B, slots: int, vocab_size: int) -> PromptsRead:
    """Reads a prompt a row, into an empty cache of so many slots."""
    return read_prompts(model, model.init_cache(tokens_BT.shape[0], slots), tokens_BT, count_B, vocab_size)


def extend_prompts(model, cache: Any, row_B, tokens_BT, count_B, vocab_size: int) -> PromptsRead:
    """Reads the rest of a prompt a row, behind a copy of what row `row_B` of the same device has read."""
    return read_prompts(model, copy_rows(cache, row_B), tokens_BT, count_B, vocab_size)


def score_first(logits_BV: jax.Array, row_N, targets_N) -> Likelihoods:
    """Scores the first token of continuations, each behind the prompt in row `row_N` of the same device: arrays [N]."""
    of_row = {"logsumexp": jax.nn.logsumexp(logits_BV, axis=-1), "greedy": logits_BV.argmax(-1)}
    found, row_DN = copy_rows(of_row, row_N), split_devices(shard(row_N, "batch"))
    logits_DN = jax.vmap(lambda x_RV, row_N, target_N: x_RV[row_N, target_N])(
        split_devices(logits_BV), row_DN, split_devices(shard(targets_N, "batch"))
    )
    return Likelihoods(found["logsumexp"] - join_devices(logits_DN), found["greedy"] == targets_N)


def score_rest(model, cache: Any, row_B, tokens_BT, count_B, targets_BT, vocab_size: int) -> Likelihoods:
    """Scores what stands behind the first token of continuations: arrays [B, T], of which row b's first `count_B` are
    real. Each row goes on from a copy of row `row_B` of the same device."""
    hidden_BTD, _ = read(model, copy_rows(cache, row_B), tokens_BT, count_B)
    targets_BT = shard(targets_BT, "batch", None)
    project = model.output_projection(hidden_BTD.dtype, shard)

    def score(chunk) -> Likelihoods:
        hidden_BTD, targets_BT = chunk
        return likelihoods(project(hidden_BTD)[..., :vocab_size], targets_BT)

    chunks = logits_chunks(targets_BT.shape)
    if chunks == 1:
        return score((hidden_BTD, targets_BT))
    parts = tuple(split_within_shards(x, 1, chunks, "time") for x in (hidden_BTD, targets_BT))
    return jax.tree.map(lambda x: join_within_shards(x, 1, "time"), jax.lax.map(score, parts))


def logits_chunks(shape: tuple[int, int]) -> int:
    """Into how many parts the time of targets [B, T] is cut, so that none has more than LOGITS_TOKENS on a device."""
    rows, length = shape[0] // shard_count("batch"), shape[1]
    return next(n for n in range(1, length + 1) if length % n == 0 and rows * length // n <= max(LOGITS_TOKENS, rows))


def likelihoods(logits_BTV: jax.Array, targets_BT: jax.Array) -> Likelihoods:
    nats_BT, _ = loss.token_losses(logits_BTV, targets_BT)
    return Likelihoods(nats_BT, logits_BTV.argmax(-1) == targets_BT)


def copy_rows(tree: Any, row_B) -> Any:
    """A pytree of arrays with an axis B in front whose row b is the tree's `row_B[b]` of the same device."""
    row_DR = split_devices(shard(row_B, "batch"))

    def copy(x: jax.Array) -> jax.Array:
        return join_devices(jax.vmap(lambda x, row_R: x[row_R])(split_devices(x), row_DR))

    return jax.tree.map(copy, tree)


def split_devices(x: jax.Array) -> jax.Array:
    """[B, …] -> [devices, rows of each, …]."""
    return split_texts(x, x.shape[0] // shard_count("batch"))


class Programs(NamedTuple):
    """The jitted functions of this file, of a model's leaves in the place of the model."""

    start_prompts: Callable
    extend_prompts: Callable
    score_rest: Callable


@functools.lru_cache(maxsize=32)
def jitted_programs(structure) -> Programs:
    """The programs of models with this tree structure."""
    return Programs(
        jit_of_leaves(start_prompts, structure, static_argnames=("slots", "vocab_size")),
        jit_of_leaves(extend_prompts, structure, static_argnames="vocab_size"),
        jit_of_leaves(score_rest, structure, static_argnames="vocab_size"),
    )


jitted_score_first = jax.jit(score_first)
