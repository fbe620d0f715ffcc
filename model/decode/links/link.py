"""What a link of a sampler chain is, and what it sees. draw.py applies links in the user's order.

A link is a class made with `@parameterized`: a frozen dataclass whose parameters a person writes as numbers, and whose
instance in a program holds arrays with an axis B in front, a row's own in each row (chain.stack_chains).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class History(NamedTuple):
    """Every row's tokens so far [B, S]: the first `length_B` are valid, the first `prompt_B` are the prompt.

    It is the whole text, however little of it the model still sees.
    """

    tokens_BS: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array


def last_token(history: History) -> jax.Array:
    """Each row's newest token [B]."""
    last_BS = jnp.arange(history.tokens_BS.shape[1]) == history.length_B[:, None] - 1
    return jnp.where(last_BS, history.tokens_BS, 0).sum(-1)


class LinkState(NamedTuple):
    """What a link, or a strategy, sees besides the logits: the history, the ids that end each row (-1 is none), the
    memory that it returned at the token before, and the number of tokens at which each row's text is complete.

    `similarity_B`: for strategies that ask for it, how much the newest token resembles those before it
    (comparison.ComparedCache)."""

    history: History
    stop_BE: jax.Array
    memory: Any = ()
    text_limit_B: jax.Array | None = None
    similarity_B: jax.Array | None = None


class Link(Protocol):
    """A link of a sampler chain. It sees each chosen token at the end of its next history."""

    def start(self, history: History, vocab_size: int) -> Any:
        """The memory before the first new token: any pytree of arrays with a first axis B."""
        ...

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[Any, jax.Array]:
        """float32 logits [B, V] -> the new memory and logits [B, V]; -inf is never drawn. `key_B`: each row's key for
        this token and link. Memories of rows that are finished are thrown away."""
        ...


class Memoryless:
    """A link that remembers nothing: `filter` maps logits to logits."""

    def start(self, history: History, vocab_size: int) -> tuple:
        return ()

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[tuple, jax.Array]:
        return (), self.filter(state, logits_BV, key_B)

    def filter(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
        """float32 logits [B, V] -> logits [B, V]."""
        raise NotImplementedError
