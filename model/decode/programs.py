"""The programs of an engine: reading pieces of texts into a paged memory, and drawing tokens of texts that are read.

engine.py dispatches them. Each takes any of the memory's rows, padded by a row to waste, in arrays of few shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.advance import Tokens, advance, draw_along, read
from model.decode.draw import Requests, Texts, expand, start
from model.decode.links.link import History
from model.decode.loop import DecodeState, decode
from model.decode.sources import PagedSource
from model.leaves import jit_of_leaves


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
    """Reads the first `count_B` of tokens [B, T] of each row: the memory with them, and nothing to fetch."""
    cache = source.open_rows(memory, *places)
    _, cache = source(tokens_BT, cache, count_B)
    return source.close_rows(memory, cache, places.row_B), None


def decode_rows(source: PagedSource, memory, places: Places, batch: Batch, steps, vocab_size: int):
    """Draws up to `steps` <= CHUNK tokens for every row, fewer when all are finished.

    Returns the memory after them, and what the caller is to fetch: (the chain's memories, Drawn [B, CHUNK], finished).
    """
    state = DecodeState(source.open_rows(memory, *places), batch_texts(batch, vocab_size))
    state, (drawn, finished_B) = decode(source, state, batch.requests, steps, vocab_size)
    memory = source.close_rows(memory, state.cache, places.row_B)
    return memory, (state.texts.memories, drawn, finished_B)


def advance_rows(source: PagedSource, memory, tokens: Tokens, batch: Batch, vocab_size: int):
    """Draws along drafts: the memory after it, and what the caller is to fetch, as of `decode_rows`."""
    texts = batch_texts(batch, vocab_size)
    memory, texts, drawn = advance(source, memory, tokens, texts, batch.requests, vocab_size)
    return memory, (texts.memories, drawn, texts.finished_B)


def read_tile(source: PagedSource, memory, tokens: Tokens):
    """Reads tokens [B, T]: the memory with them, and the logits [B, T, V] after each."""
    logits_BTV, memory = read(source, memory, tokens)
    return memory, logits_BTV


@functools.partial(jax.jit, static_argnames="vocab_size")
def draw_row(logits_BTV, row, tokens: Tokens, batch: Batch, vocab_size: int):
    """Draws along the drafts of one row of a tile that was read; tokens and batch are of that row alone."""
    logits_1TV = jax.lax.dynamic_slice_in_dim(logits_BTV, row, 1)
    texts, drawn = draw_along(batch_texts(batch, vocab_size), batch.requests, logits_1TV, tokens, vocab_size)
    return texts.memories, drawn, texts.finished_B


def batch_texts(batch: Batch, vocab_size: int) -> Texts:
    """The texts of a batch, with the memories that they have, or new ones."""
    texts = start(batch.history, batch.requests.chain, batch.finished_B, vocab_size)

    def choose(new, old):
        return jnp.where(expand(batch.new_B, new), new, old)

    return texts._replace(memories=jax.tree.map(choose, texts.memories, batch.memories))


class Programs(NamedTuple):
    """Jitted programs of a source's leaves and a memory, which is donated."""

    read_rows: Callable
    decode_rows: Callable
    advance_rows: Callable
    read_tile: Callable


@functools.lru_cache(maxsize=32)
def jitted_programs(structure) -> Programs:
    """The programs of sources with this tree structure."""

    def jitted(program: Callable, *static: str) -> Callable:
        return jit_of_leaves(program, structure, static_argnames=static, donate_argnums=1)

    sizes = "vocab_size"
    return Programs(jitted(read_rows), jitted(decode_rows, sizes), jitted(advance_rows, sizes), jitted(read_tile))
