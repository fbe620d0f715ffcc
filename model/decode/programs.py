"""The programs of an engine: reading pieces of texts into a paged memory, and drawing tokens of texts that are read.

engine.py dispatches them. Each takes any of the memory's rows, padded by a row to waste, in arrays of few shapes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.draw import Requests, expand, start
from model.decode.links.link import History
from model.decode.loop import DecodeState, decode
from model.decode.sources import PagedSource


class Places(NamedTuple):
    """Where the texts of a dispatch lie: their rows of the memory, tokens that it holds of each, their pages [B, n]."""

    row_B: jax.Array
    length_B: jax.Array
    pages_Bn: jax.Array


class Batch(NamedTuple):
    """The texts of a dispatch that draws. `memories`: of their chain's links and strategy; no text yet if `new_B`."""

    history: History
    requests: Requests
    finished_B: jax.Array
    new_B: jax.Array
    memories: Any


def read_rows(source: PagedSource, memory, places: Places, tokens_BT, count_B):
    """Reads the first `count_B` of tokens [B, T] of each row: the memory with them."""
    cache = source.open_rows(memory, *places)
    _, cache = source(tokens_BT, cache, count_B)
    return source.close_rows(memory, cache, places.row_B)


def decode_rows(source: PagedSource, memory, places: Places, batch: Batch, steps, vocab_size: int):
    """Draws up to `steps` <= CHUNK tokens for every row, fewer when all are finished.

    Returns the memory after them, and what the caller is to fetch: (the chain's memories, Drawn [B, CHUNK], finished).
    """
    texts = start(batch.history, batch.requests.chain, batch.finished_B, vocab_size)

    def choose(new, old):
        return jnp.where(expand(batch.new_B, new), new, old)

    texts = texts._replace(memories=jax.tree.map(choose, texts.memories, batch.memories))
    state = DecodeState(source.open_rows(memory, *places), texts)
    state, (drawn, finished_B) = decode(source, state, batch.requests, steps, vocab_size)
    memory = source.close_rows(memory, state.cache, places.row_B)
    return memory, (state.texts.memories, drawn, finished_B)


@functools.lru_cache(maxsize=32)
def jitted_programs(structure):
    """Jitted `read_rows` and `decode_rows` of the leaves of sources with this tree structure. The memory is donated."""

    def read_leaves(leaves, *arguments):
        return read_rows(structure.unflatten(leaves), *arguments)

    def decode_leaves(leaves, *arguments, **static):
        return decode_rows(structure.unflatten(leaves), *arguments, **static)

    return (
        jax.jit(read_leaves, donate_argnums=1),
        jax.jit(decode_leaves, static_argnames="vocab_size", donate_argnums=1),
    )
