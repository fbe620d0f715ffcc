"""SEAM 3a, sources of logits: all that the decoder (generate.py) knows of a model. A Transformer is a Source; so are
guidance, or a contrast with a weaker model, if built of several sources with a tuple of their caches.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax


class Source(Protocol):
    """A model for the decoder: a pytree of weights, called with tokens.

    The decoder passes caches on unopened; all that it knows of one is that its arrays have an axis B in front."""

    def init_cache(self, rows: int, slots: int) -> Any:
        """An empty cache for `rows` sequences of at most `slots` tokens."""
        ...

    def __call__(self, tokens_BT: jax.Array, cache: Any, count_B: jax.Array) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] of each token's successor, and the cache with each row's first `count_B` tokens added."""
        ...


class PagedSource(Source, Protocol):
    """A source that can serve many texts at once, whose memory lies in pages (model/cache.py). engine.py calls it."""

    def init_pages(self, rows: int, pages: Any) -> Any:
        """An empty memory of so many pages (cache.PageLayout), and of `rows` rows of what does not lie in pages."""
        ...

    def open_rows(self, memory: Any, row_B: jax.Array, length_B: jax.Array, pages_Bn: jax.Array) -> Any:
        """The cache of rows `row_B` of the memory, which have read `length_B` tokens and own the pages `pages_Bn`."""
        ...

    def close_rows(self, memory: Any, cache: Any, row_B: jax.Array) -> Any:
        """The memory after the cache has been used. Every row stands in `row_B` once at most, but for one to waste."""
        ...
