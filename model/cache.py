"""The cache of a model while decoding: what each layer remembers of the tokens that it has read.

Transformer.init_cache creates it from the `memory` of every mixer, mixers and blocks read and return their parts; the
decoder passes it on unopened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of all slots [B, K, S, H]. No query may see the slots past a row's length.

    Heads come before slots, as kernels read them: otherwise every token would copy the whole cache.
    """

    key: jax.Array
    value: jax.Array


class LayerCache(NamedTuple):
    """One layer's cache. `mixer`: what the mixer's own `memory` made, a pytree that only it opens. `mixer_input`,
    `feed_forward_input`: of the last token [B, 1, D]; None without token shift."""

    mixer: Any
    mixer_input: jax.Array | None = None
    feed_forward_input: jax.Array | None = None


class Cache(NamedTuple):
    """The cache of a batch of sequences. `length_B`: tokens that each row has read; `layers`: one entry a layer."""

    length_B: jax.Array
    layers: tuple[LayerCache, ...]


def update(cache_BKSH: jax.Array, new_BKTH: jax.Array, start_B: jax.Array) -> jax.Array:
    """Writes each row's new keys or values into its slots start .. start + T."""

    def row(cache_KSH, new_KTH, start):
        return jax.lax.dynamic_update_slice(cache_KSH, new_KTH.astype(cache_KSH.dtype), (0, start, 0))

    return jax.vmap(row)(cache_BKSH, new_BKTH, start_B)


def last_input(x_BTD: jax.Array, previous_B1D: jax.Array, count_B: jax.Array) -> jax.Array:
    """Each row's last real input [B, 1, D]: entry count - 1 of x, or the previous one if the row has no new token."""
    inputs = jnp.concatenate([previous_B1D.astype(x_BTD.dtype), x_BTD], axis=1)
    return jnp.take_along_axis(inputs, count_B[:, None, None], axis=1)
