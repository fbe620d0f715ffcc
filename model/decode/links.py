"""SEAM 3b, the links of a sampler chain: each maps next-token logits to others. model/decode/chain.py parses them,
generate.py applies them in the user's order. A link is a frozen dataclass; its state between tokens is its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class History(NamedTuple):
    """Every row's tokens so far [B, S]: the first `length_B` are valid, the first `prompt_B` are the prompt."""

    tokens_BS: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array


class LinkState(NamedTuple):
    """What a link sees besides the logits: the history, and the memory that it returned at the token before."""

    history: History
    memory: Any = ()


class Link(Protocol):
    """A link of a sampler chain. It sees each chosen token at the end of its next history."""

    def start(self, history: History, vocab_size: int) -> Any:
        """The memory before the first new token: any pytree of arrays with a first axis B."""
        ...

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        """float32 logits [B, V] -> logits [B, V]; -inf is never drawn. `key_B`: each row's key for this token."""
        ...


class Memoryless:
    """A link without memory."""

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
    """Keeps the k likeliest tokens (Fan et al. 2018, 5.4); of equally likely ones those with the lowest ids."""

    k: int

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        best_BK, ids_BK = jax.lax.top_k(logits_BV, min(self.k, logits_BV.shape[-1]))
        # The last one, by minimum and maximum: XLA turns a slice of top_k into a sort of the vocabulary, 100 x slower.
        last_B1 = best_BK.min(-1, keepdims=True)
        last_id_B1 = jnp.where(best_BK == last_B1, ids_BK, -1).max(-1, keepdims=True)  # of equals, lower ids came first
        ids_V = jnp.arange(logits_BV.shape[-1])
        keep_BV = (logits_BV > last_B1) | ((logits_BV == last_B1) & (ids_V <= last_id_B1))
        return state, jnp.where(keep_BV, logits_BV, -jnp.inf)


@dataclass(frozen=True)
class TopP(Memoryless):
    """Keeps the smallest set of likeliest tokens with probability p or more, the nucleus (Holtzman et al. 2020, 3.1).

    Of equally likely tokens it keeps the lowest ids; at least one token stays.
    """

    p: float

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[LinkState, jax.Array]:
        if self.p == 1:
            return state, logits_BV
        return state, jnp.where(nucleus_mask(jax.nn.softmax(logits_BV), self.p), logits_BV, -jnp.inf)


def nucleus_mask(probability_BV: jax.Array, p: float) -> jax.Array:
    """bool [B, V]: the smallest set of likeliest tokens with mass p or more.

    Two bisections find the least probability in the set (the bits of positive floats are ordered as the floats are),
    then the last id of that probability: on a CPU five to ten times as fast as sorting a vocabulary of 50,000.
    """
    bits_BV = jax.lax.bitcast_convert_type(probability_BV, jnp.int32)
    size = probability_BV.shape[-1]
    ids_V = jnp.arange(size)
    p = max(p, 1e-30)  # above 0 in float32 too: else the empty set would do

    def mass(set_BV):
        return jnp.where(set_BV, probability_BV, 0).sum(-1)

    threshold_B = bisect_greatest(lambda bits_B: mass(bits_BV >= bits_B[:, None]) >= p, 30, probability_BV[:, 0])
    above_BV, equal_BV = bits_BV > threshold_B[:, None], bits_BV == threshold_B[:, None]

    def falls_short(id_B):
        return mass(above_BV | (equal_BV & (ids_V < id_B[:, None]))) < p

    # Equals below this id fall short of p; with it they do not.
    last_id_B = bisect_greatest(falls_short, size.bit_length(), probability_BV[:, 0])
    return above_BV | (equal_BV & (ids_V <= last_id_B[:, None]))


def bisect_greatest(predicate, bits: int, like_B: jax.Array) -> jax.Array:
    """Each row's greatest int32 below 2^bits for which a predicate, true up to some number, is true; else 0."""

    def body(index, result_B):
        candidate_B = result_B | (1 << (bits - 1 - index))
        return jnp.where(predicate(candidate_B), candidate_B, result_B)

    return jax.lax.fori_loop(0, bits, body, jnp.zeros_like(like_B, jnp.int32))
