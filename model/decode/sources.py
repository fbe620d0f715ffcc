"""SEAM 3a, sources of logits: all that the decoder (generate.py) knows of a model. A Transformer is a Source; so are
several models, or one that reads several texts, whose logits a composition (compositions.py) makes one of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from model.sharding import shard


class Source(Protocol):
    """A model for the decoder: a pytree of weights, called with tokens.

    The decoder passes caches on unopened; all that it knows of one is that its arrays have an axis B in front."""

    def init_cache(self, rows: int, slots: int) -> Any:
        """An empty cache for `rows` sequences of at most `slots` tokens."""
        ...

    def __call__(self, tokens_BT: jax.Array, cache: Any, count_B: jax.Array) -> tuple[jax.Array, Any]:
        """Logits [B, T, V] of each token's successor, and the cache with each row's first `count_B` tokens added."""
        ...


class HiddenSource(Source, Protocol):
    """A source that shows what its logits are made of. comparison.py calls it.

    `width`: features D of the last hidden states.
    """

    width: int

    def with_hidden(self, tokens_BT: jax.Array, cache: Any, count_B: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """What a call gives, with the last hidden states [B, T, D] in between."""
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

    def lies_in_pages(self, memory: Any) -> bool:
        """Whether all of a memory lies in pages, so that rows can share them and go back."""
        ...


class Composition(Protocol):
    """How the logits of one text come from several branches: models that each read a text of their own.

    `runs`: whose model each branch is; "" is the model that is asked to write.
    """

    runs: tuple[str, ...]

    def texts(self, ids: list[int], prompt: int) -> tuple[list[int], ...]:
        """What each branch reads of a text whose first `prompt` ids are its prompt."""
        ...

    def __call__(self, logits: tuple[jax.Array, ...], vocab_size: int) -> jax.Array:
        """The branches' logits [B, T, V] -> those of the text; ids from `vocab_size` on are padding."""
        ...


class BranchCache(NamedTuple):
    """The cache of a branch. `first_B`: the token that it reads in place of the next one, as its own text ends with
    another than the row's; -1 is none. None: it reads the row's text."""

    cache: Any
    first_B: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ComposedSource:
    """A Source of several branches, of which the first reads the row's text. New tokens go to all of them.

    The weights of a model with two branches are the same arrays, and so are held once.
    """

    branches: tuple[Source, ...]
    composition: Composition  # its numbers have an axis B in front
    vocab_size: int = dataclasses.field(metadata={"static": True})

    def init_cache(self, rows: int, slots: int) -> tuple[BranchCache, ...]:
        caches = tuple(branch.init_cache(rows, slots) for branch in self.branches)
        return branch_caches(caches, [shard(jnp.full(rows, -1, jnp.int32), "batch")] * len(caches))

    def __call__(self, tokens_BT: jax.Array, cache: tuple, count_B: jax.Array) -> tuple[jax.Array, tuple]:
        read = [read_branch(branch, tokens_BT, own, count_B) for branch, own in zip(self.branches, cache, strict=True)]
        logits, caches = zip(*read, strict=True)
        return self.composition(logits, self.vocab_size), caches

    def similarity(self, cache: tuple) -> jax.Array:
        """ComparedCache.similarity_B of the first branch, whose source is a ComparedSource."""
        return cache[0].cache.similarity_B


def branch_caches(caches: Sequence[Any], first: Sequence[jax.Array]) -> tuple[BranchCache, ...]:
    """A composed source's cache, of those of its branches and of each branch's next token [B]."""
    others = zip(caches[1:], first[1:], strict=True)
    return BranchCache(caches[0], None), *(BranchCache(cache, first_B) for cache, first_B in others)


def read_branch(model: Source, tokens_BT: jax.Array, own: BranchCache, count_B: jax.Array):
    """A branch's logits [B, T, V] and its cache."""
    first_B = own.first_B
    if first_B is not None:
        tokens_BT = tokens_BT.at[:, 0].set(jnp.where(first_B < 0, tokens_BT[:, 0], first_B))
        first_B = jnp.where(count_B > 0, -1, first_B)
    logits_BTV, cache = model(tokens_BT, own.cache, count_B)
    return logits_BTV, BranchCache(cache, first_B)


def compose(composition: Composition, models: tuple[Source, ...], vocab_size: int) -> ComposedSource:
    """The source of a composition and of its models, each given once, in the order of their first branches."""
    model_of = dict(zip(dict.fromkeys(composition.runs), models, strict=True))
    return ComposedSource(tuple(model_of[run] for run in composition.runs), composition, vocab_size)
