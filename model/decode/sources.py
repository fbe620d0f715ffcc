"""SEAM 3a, where logits come from: all that the decoder knows of a model. A Transformer is one as it stands;
guidance or a contrast with a weaker model is a source made of sources, its cache a tuple of theirs.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax


class Source(Protocol):
    """A pytree of weights that reads tokens. Caches are pytrees which the decoder passes on unopened."""

    def init_cache(self, rows: int, slots: int) -> Any:
        """An empty memory for `rows` sequences of at most `slots` tokens."""
        ...

    def __call__(self, tokens_BT: jax.Array, cache: Any, count_B: jax.Array) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] of each token's successor, and the cache with each row's first `count_B` tokens in it."""
        ...
