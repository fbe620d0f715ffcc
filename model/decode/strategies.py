"""SEAM 3c, strategies: how a token is chosen from the logits that a chain ends with. draw.py calls them, chain.py names
them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from model.decode.links.link import History, LinkState
from model.decode.parameters import parameterized


class Choice(NamedTuple):
    """The next token of every row [B], and which row it continues.

    `parent_B`: row b becomes row parent_B[b] with this token behind it: its cache, history and memories; None: itself.
    `finished_B`: rows that end with this token, by the strategy; None: stop ids and limits alone decide.
    `log_probability_B`: of this choice, in nats, as the strategy makes it.
    """

    token_B: jax.Array
    log_probability_B: jax.Array
    memory: Any = ()
    parent_B: jax.Array | None = None
    finished_B: jax.Array | None = None


class Strategy(Protocol):
    """A way to choose tokens. `rows`: how many rows of a batch, side by side, write one text."""

    rows: int

    def start(self, history: History) -> Any:
        """The memory before the first new token: any pytree of arrays with a first axis B."""
        ...

    def __call__(self, logits_BV: jax.Array, state: LinkState, key_B: jax.Array) -> Choice:
        """float32 logits [B, V] and each row's key for this token -> the choice."""
        ...


class OneRow:
    """A strategy whose rows are texts of their own, and that remembers nothing."""

    rows = 1

    def start(self, history: History) -> tuple:
        return ()


@parameterized
class Sample(OneRow):
    """A draw from softmax(logits) as argmax(logits + Gumbel noise) (Gumbel 1954; Maddison et al. 2014).

    The noise of a row depends on its key alone, and so not on the other rows of its batch.
    """

    def __call__(self, logits_BV, state, key_B):
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, logits_BV.shape[1:], jnp.float32))(key_B)
        token_B = jnp.argmax(logits_BV + noise_BV, axis=-1).astype(jnp.int32)
        return Choice(token_B, log_probability(logits_BV, token_B))


@parameterized
class Greedy(OneRow):
    """The likeliest token; of equally likely ones that with the lowest id."""

    def __call__(self, logits_BV, state, key_B):
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return Choice(token_B, jnp.zeros_like(logits_BV[:, 0]))


def row_keys(seed_BW: jax.Array, sample_B: jax.Array, position_B: jax.Array) -> jax.Array:
    """A random key for each row's next token, from its seed (two uint32 words), sample index and position."""

    def key(seed_W, sample, position):
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(seed_W), sample), position)

    return jax.vmap(key)(seed_BW, sample_B, position_B)


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The natural logarithm of one token's probability in each row. [B, V], [B] -> [B]."""
    chosen_BV = jnp.arange(logits_BV.shape[1]) == token_B[:, None]
    return jnp.where(chosen_BV, logits_BV, 0).sum(-1) - jax.nn.logsumexp(logits_BV, axis=-1)
