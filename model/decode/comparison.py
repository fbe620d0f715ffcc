"""A source that compares each token with those before it, for strategies that ask for it (Strategy.compares)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.sources import ComposedSource, HiddenSource
from model.sharding import shard


class ComparedCache(NamedTuple):
    """A source's cache, and the directions of the last hidden states of all tokens in it, float32 of norm 1 [B, S, D].

    `length_B`: tokens of each row. `similarity_B`: the greatest cosine of the newest token's hidden state and one of a
    token before it, -1 where there is none.
    """

    cache: Any
    direction_BSD: jax.Array
    length_B: jax.Array
    similarity_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComparedSource:
    """A Source that compares what it reads; its cache is a ComparedCache."""

    source: HiddenSource

    def init_cache(self, rows: int, slots: int) -> ComparedCache:
        direction_BSD = shard(jnp.zeros((rows, slots, self.source.width)), "batch", None, None)
        length_B = shard(jnp.zeros(rows, jnp.int32), "batch")
        return ComparedCache(
            self.source.init_cache(rows, slots), direction_BSD, length_B, -jnp.ones_like(length_B, float)
        )

    def __call__(self, tokens_BT: jax.Array, cache: ComparedCache, count_B: jax.Array):
        logits_BTV, hidden_BTD, own = self.source.with_hidden(tokens_BT, cache.cache, count_B)
        new_BTD = directions(hidden_BTD)
        newest_BD = jnp.take_along_axis(new_BTD, jnp.maximum(count_B - 1, 0)[:, None, None], axis=1)[:, 0]
        direction_BSD = jax.vmap(lambda old, new, start: jax.lax.dynamic_update_slice(old, new, (start, 0)))(
            cache.direction_BSD, new_BTD, cache.length_B
        )
        length_B = cache.length_B + count_B
        cosine_BS = jnp.einsum("BD,BSD->BS", newest_BD, direction_BSD, precision="highest")
        is_before_BS = jnp.arange(cosine_BS.shape[1]) < length_B[:, None] - 1
        similarity_B = jnp.where(is_before_BS, cosine_BS, -1).max(-1)
        return logits_BTV, ComparedCache(own, direction_BSD, length_B, similarity_B)


def compare_tokens(source: ComposedSource) -> ComposedSource:
    """The source whose first branch compares the row's tokens."""
    first, *others = source.branches
    return dataclasses.replace(source, branches=(ComparedSource(first), *others))


def directions(x_BTD: jax.Array) -> jax.Array:
    """Vectors of norm 1, float32; zero stays zero."""
    x_BTD = x_BTD.astype(jnp.float32)
    norm_BT1 = jnp.linalg.norm(x_BTD, axis=-1, keepdims=True)
    return x_BTD / jnp.where(norm_BT1 > 0, norm_BT1, 1)
