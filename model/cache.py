"""The cache of a model while decoding: what each layer remembers of the tokens that it has read.

Transformer.init_cache creates it from the `memory` of every mixer, mixers and blocks read and return their parts; the
decoder passes it on unopened. For many texts of different lengths at once, keys and values lie in pages that all rows
share (Kwon et al. 2023, "PagedAttention"): `init_pages` creates them, `open_rows` gives a forward pass the rows that it
is for, and `close_rows` takes back what it added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class FilledSlots(NamedTuple):
    """Which slots of its memory each row has filled: `start_B` before these tokens, and with them `count_B` more.

    `pages_Bn`: the pages that hold row b's slots, in order; None where every row has slots of its own.
    """

    start_B: jax.Array
    count_B: jax.Array
    pages_Bn: jax.Array | None = None

    def places(self, length: int, page_size: int) -> tuple[jax.Array, jax.Array]:
        """Page and offset [B, T] of `length` new tokens; page 0 for those that are not real."""
        slot_BT = self.start_B[:, None] + jnp.arange(length, dtype=jnp.int32)
        index_BT = jnp.minimum(slot_BT // page_size, self.pages_Bn.shape[1] - 1)
        page_BT = jnp.take_along_axis(self.pages_Bn, index_BT, axis=1)
        is_real_BT = jnp.arange(length) < self.count_B[:, None]
        return jnp.where(is_real_BT, page_BT, 0), slot_BT % page_size


class PageLayout(NamedTuple):
    """The pages of a model's memory: how many, page 0 included, and how many slots each has."""

    count: int
    size: int


class LayerCache(NamedTuple):
    """One layer's cache. `mixer`: what the mixer's own `memory` made, a pytree that only it opens. `mixer_input`,
    `feed_forward_input`: of the last token [B, 1, D]; None without token shift."""

    mixer: Any
    mixer_input: jax.Array | None = None
    feed_forward_input: jax.Array | None = None


class Cache(NamedTuple):
    """The cache of a batch of sequences. `length_B`: tokens that each row has read; `layers`: one entry a layer.

    `pages_Bn`: the pages of each row, where keys and values lie in pages (FilledSlots).
    """

    length_B: jax.Array
    layers: tuple[LayerCache, ...]
    pages_Bn: jax.Array | None = None


def open_rows(layers: tuple[LayerCache, ...], row_B, length_B, pages_Bn) -> Cache:
    """The cache of a forward pass over some of the rows of a paged memory: row_B[b] is the memory's row of row b.

    `length_B` may be less than what the row has read, if all that it remembers lies in pages: it goes back then.
    """

    def take(memory):
        return memory if is_shared(memory) else jax.tree.map(lambda x: x[row_B], memory)

    return Cache(length_B, jax.tree.map(take, layers, is_leaf=is_shared), pages_Bn)


def close_rows(layers: tuple[LayerCache, ...], cache: Cache, row_B) -> tuple[LayerCache, ...]:
    """The paged memory after a forward pass over its rows `row_B` [B]."""

    def put(memory, opened):
        if is_shared(memory):
            return opened
        return jax.tree.map(lambda x, new: x.at[row_B].set(new), memory, opened)

    return jax.tree.map(put, layers, cache.layers, is_leaf=is_shared)


def is_shared(memory: Any) -> bool:
    """Whether a part of a memory is no row's own: forward passes over some of the rows get all of it."""
    return getattr(memory, "is_shared", False)


def lies_in_pages(layers: tuple[LayerCache, ...]) -> bool:
    """Whether all of a paged memory lies in pages, so that rows can share them and go back (`open_rows`)."""
    return all(is_shared(leaf) for leaf in jax.tree.leaves(layers, is_leaf=is_shared))


def last_input(x_BTD: jax.Array, previous_B1D: jax.Array, count_B: jax.Array) -> jax.Array:
    """Each row's last real input [B, 1, D]: entry count - 1 of x, or the previous one if the row has no new token."""
    inputs = jnp.concatenate([previous_B1D.astype(x_BTD.dtype), x_BTD], axis=1)
    return jnp.take_along_axis(inputs, count_B[:, None, None], axis=1)
