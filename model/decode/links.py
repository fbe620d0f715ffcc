"""SEAM 3b, the links of a sampler chain: each turns next-token logits into others. model/decode/chain.py names them,
generate.py applies them in the user's order. A link is a frozen dataclass; what it learns on the way is its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class History(NamedTuple):
    """Every row's tokens so far, prompt first: [B, S] of which the first `length_B` count, `prompt_B` from outside."""

    tokens_BS: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array


class LinkState(NamedTuple):
    """What a link sees besides the logits: the whole history, and the memory it returned at the token before."""

    history: History
    memory: Any = ()


class Link(Protocol):
    """Chosen tokens reach a link as the end of the history it is given next."""

    def start(self, history: History, vocab_size: int) -> Any:
        """The memory before the first new token: any pytree of arrays with rows in front."""
        ...

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        """float32 logits [B, V] -> logits [B, V]; -inf is never drawn. `key_B` is the row's own for this token."""
        ...


class Memoryless:
    """A link that keeps nothing between tokens."""

    def start(self, history: History, vocab_size: int) -> tuple:
        return ()


@dataclass(frozen=True)
class Temperature(Memoryless):
    """Logits divided by `value`: below 1 sharpens the distribution, above 1 flattens it (Ackley et al. 1985)."""

    value: float

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        return state, logits_BV / self.value


@dataclass(frozen=True)
class TopK(Memoryless):
    """Keeps the k likeliest tokens (Fan et al. 2018, 5.4), of equals the lowest ids."""

    k: int

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        best_BK, ids_BK = jax.lax.top_k(logits_BV, min(self.k, logits_BV.shape[-1]))
        # The last kept, by minimum and maximum: XLA turns a slice of top_k into a sort of the vocabulary, 100 x slower.
        last_B1 = best_BK.min(-1, keepdims=True)
        last_id_B1 = jnp.where(best_BK == last_B1, ids_BK, -1).max(-1, keepdims=True)  # of equals, lower ids came first
        ids_V = jnp.arange(logits_BV.shape[-1])
        kept = (logits_BV > last_B1) | ((logits_BV == last_B1) & (ids_V <= last_id_B1))
        return state, jnp.where(kept, logits_BV, -jnp.inf)


@dataclass(frozen=True)
class TopP(Memoryless):
    """Keeps the smallest set of likeliest tokens with probability p or more, the nucleus (Holtzman et al. 2020, 3.1).

    Of equals the lowest ids; at least one token stays.
    """

    p: float

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        if self.p == 1:
            return state, logits_BV
        return state, jnp.where(nucleus_mask(jax.nn.softmax(logits_BV), self.p), logits_BV, -jnp.inf)


def nucleus_mask(probability_BV: jax.Array, p: float) -> jax.Array:
    """bool [B, V]: the smallest set of likeliest tokens with mass p or more.

    Found by bisection, first of the least probability in it (the bits of positive floats are ordered as the floats
    are), then of the last id among equals: on a CPU five to ten times as fast as sorting a vocabulary of 50,000.
    """
    bits_BV = jax.lax.bitcast_convert_type(probability_BV, jnp.int32)
    size = probability_BV.shape[-1]
    ids_V = jnp.arange(size)
    p = max(p, 1e-30)  # above 0 in float32 too: the empty set will not do

    def mass(set_BV):
        return jnp.where(set_BV, probability_BV, 0).sum(-1)

    least_B = bisect_greatest(lambda bits_B: mass(bits_BV >= bits_B[:, None]) >= p, 30, probability_BV[:, 0])
    above_BV, equal_BV = bits_BV > least_B[:, None], bits_BV == least_B[:, None]

    def short(id_B):
        return mass(above_BV | (equal_BV & (ids_V < id_B[:, None]))) < p

    last_B = bisect_greatest(
        short, size.bit_length(), probability_BV[:, 0]
    )  # equals below it fall short, with it they do not
    return above_BV | (equal_BV & (ids_V <= last_B[:, None]))


def bisect_greatest(holds, bits: int, like_B: jax.Array) -> jax.Array:
    """Each row's greatest int32 below 2^bits where a predicate that turns from true to false still holds, or 0."""

    def body(index, found_B):
        tried_B = found_B | (1 << (bits - 1 - index))
        return jnp.where(holds(tried_B), tried_B, found_B)

    return jax.lax.fori_loop(0, bits, body, jnp.zeros_like(like_B, jnp.int32))
