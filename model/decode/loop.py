"""The decode loop: several tokens of every row in one program, one forward pass a token.

generate.py runs it on rows of slots, programs.py on rows of pages: what a text comes to is decided here, once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.draw import Requests, Texts, draw, no_draws, shard_rows, take_parents, vocabulary_logits
from model.decode.links.link import last_token
from model.decode.sources import Source
from model.sharding import shard

CHUNK = 16  # tokens a dispatch at most: a caller that streams text gets no more than this at once


class DecodeState(NamedTuple):
    """A batch during decoding. The cache holds each row's tokens but the last, which the next step reads."""

    cache: Any
    texts: Texts


def decode(source: Source, state: DecodeState, requests: Requests, steps, vocab_size: int):
    """Draws up to `steps` <= CHUNK tokens for every row, fewer when all are finished.

    Returns the state after them, and what the caller is to fetch: (Drawn [B, CHUNK], finished [B]).
    """
    state, requests = state._replace(texts=shard_rows(state.texts)), shard_rows(requests)
    rows = requests.limit_B.shape[0]
    strategy = requests.chain.strategy
    drawn = jax.tree.map(lambda x: shard(x, "batch", None), no_draws(rows, CHUNK, strategy.searches))

    def unfinished(carry):
        step, state, _ = carry
        return (step < steps) & ~state.texts.finished_B.all()

    def step_rows(carry):
        step, (cache, texts), drawn = carry
        logits_BTV, cache = source(last_token(texts.history)[:, None], cache, (~texts.finished_B).astype(jnp.int32))
        similarity_B = source.similarity(cache) if strategy.compares else None
        texts, new = draw(texts, requests, vocabulary_logits(logits_BTV[:, 0], vocab_size), similarity_B)
        cache = take_parents(cache, new.parent, strategy.rows) if strategy.searches else cache
        mask_C = jnp.arange(CHUNK) == step
        drawn = jax.tree.map(lambda new, old: jnp.where(mask_C, new[:, None], old), new, drawn)
        return step + 1, DecodeState(cache, texts), drawn

    _, state, drawn = jax.lax.while_loop(unfinished, step_rows, (jnp.int32(0), state, drawn))
    finished_B = shard(state.texts.finished_B, None)
    return state, (jax.tree.map(lambda x: shard(x, None, None), drawn), finished_B)  # whole: every process reads it
