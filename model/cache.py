"""What a model remembers while decoding: keys and values, and the last input of each shifted branch.

Made by Transformer.cache, read and returned by attention and the block; the decoder passes it on unopened.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of every slot so far [B, K, S, H]; slots past a row's length hold what no query may see.

    Heads come first, as kernels read them: otherwise every token copies the whole memory.
    """

    key: jax.Array
    value: jax.Array


class LayerCache(NamedTuple):
    """One layer's memory. `mixer_input`, `feed_forward_input`: the last token's [B, 1, D], or None unshifted."""

    attention: KeyValues
    mixer_input: jax.Array | None = None
    feed_forward_input: jax.Array | None = None


class Cache(NamedTuple):
    """The memory of a batch of sequences. `length_B`: tokens each row has read; `layers`: one entry a layer."""

    length_B: jax.Array
    layers: tuple[LayerCache, ...]


def update(memory_BKSH: jax.Array, new_BKTH: jax.Array, start_B: jax.Array) -> jax.Array:
    """Puts each row's new entries into its slots start .. start + T."""

    def row(memory_KSH, new_KTH, start):
        return jax.lax.dynamic_update_slice(memory_KSH, new_KTH.astype(memory_KSH.dtype), (0, start, 0))

    return jax.vmap(row)(memory_BKSH, new_BKTH, start_B)


def last_input(x_BTD: jax.Array, before_B1D: jax.Array, count_B: jax.Array) -> jax.Array:
    """Each row's last real input [B, 1, D]: entry count - 1, or the one remembered where a row has none."""
    joined = jnp.concatenate([before_B1D.astype(x_BTD.dtype), x_BTD], axis=1)
    return jnp.take_along_axis(joined, count_B[:, None, None], axis=1)
