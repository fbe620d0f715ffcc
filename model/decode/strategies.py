"""SEAM 3c, strategies: how a token is chosen from the logits that a chain ends with. generate.py calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp


class Strategy(Protocol):
    def __call__(self, logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
        """float32 logits [B, V] and each row's key for this token -> token ids [B]."""
        ...


@dataclass(frozen=True)
class Sample:
    """A draw from softmax(logits) as argmax(logits + Gumbel noise) (Gumbel 1954; Maddison et al. 2014).

    The noise of a row depends on its key alone, and so not on the other rows of its batch.
    """

    def __call__(self, logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:], jnp.float32))(key_B)
        return jnp.argmax(logits_BV + noise_BV, axis=-1).astype(jnp.int32)


@dataclass(frozen=True)
class Greedy:
    """The likeliest token; of equally likely ones that with the lowest id."""

    def __call__(self, logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def row_keys(seed_BW: jax.Array, sample_B: jax.Array, position_B: jax.Array) -> jax.Array:
    """A random key for each row's next token, from its seed (two uint32 words), sample index and position."""

    def key(seed_W, sample, position):
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(seed_W), sample), position)

    return jax.vmap(key)(seed_BW, sample_B, position_B)
