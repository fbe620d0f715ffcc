"""One forward pass over tokens of many texts, and every draw that it allows: prompts read in pieces, decoding, drafts.

engine.py calls `advance`; in its invariant mode it runs the two halves of it apart, as programs of their own.

Drafts change no text: a draft is kept only where it is the very token that the row draws itself (Leviathan et al. 2023
keep more, by rejection sampling, and get another text of the same distribution).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode.draw import Drawn, Requests, Texts, draw, no_draws, vocabulary_logits
from model.decode.sources import PagedSource


class Tokens(NamedTuple):
    """What the rows of a forward pass read: tokens of their texts, then drafts of the next ones.

    `row_B`, `length_B`, `pages_Bn`: the rows of the memory, as PagedSource.open_rows takes them. Of `tokens_BT` the
    first `known_B` are the text's own and those up to `count_B` drafts; the rest is padding. `complete_B`: whether the
    text's last token is among them; a row without it draws nothing.
    """

    row_B: jax.Array
    length_B: jax.Array
    pages_Bn: jax.Array
    tokens_BT: jax.Array
    known_B: jax.Array
    count_B: jax.Array
    complete_B: jax.Array


def advance(source: PagedSource, memory: Any, tokens: Tokens, texts: Texts, requests: Requests, vocab_size: int):
    """Reads tokens [B, T] and draws what follows them, up to T tokens a row.

    Returns the memory, the texts with what they drew, and Drawn [B, T]. The memory holds rejected drafts too: a row's
    next forward pass starts at its text's length, and writes over them.
    """
    logits_BTV, memory = read(source, memory, tokens)
    return memory, *draw_along(texts, requests, logits_BTV, tokens, vocab_size)


def read(source: PagedSource, memory: Any, tokens: Tokens) -> tuple[jax.Array, Any]:
    """Logits [B, T, V] of the token after each, and the memory with all of them added."""
    cache = source.open_rows(memory, tokens.row_B, tokens.length_B, tokens.pages_Bn)
    logits_BTV, cache = source(tokens.tokens_BT, cache, tokens.count_B)
    return logits_BTV, source.close_rows(memory, cache, tokens.row_B)


def draw_along(
    texts: Texts, requests: Requests, logits_BTV: jax.Array, tokens: Tokens, vocab_size: int
) -> tuple[Texts, Drawn]:
    """Draws after each row's last known token, and after each draft for as long as it is what the row drew."""
    rows, length = tokens.tokens_BT.shape
    columns_T = jnp.arange(length)

    def goes_on(carry):
        step, active_B, *_ = carry
        return (step < length) & active_B.any()

    def draw_once(carry):
        step, active_B, texts, drawn = carry
        column_B = jnp.minimum(tokens.known_B - 1 + step, length - 1)
        logits_BV = jnp.take_along_axis(logits_BTV, column_B[:, None, None], axis=1)[:, 0]
        given = texts._replace(finished_B=~active_B)
        after, new = draw(given, requests, vocabulary_logits(logits_BV, vocab_size))
        texts = after._replace(finished_B=texts.finished_B | (active_B & after.finished_B))
        drawn_BT = active_B[:, None] & (columns_T == step)
        drawn = jax.tree.map(lambda x, old: jnp.where(drawn_BT, x[:, None], old), new, drawn)
        draft_B = jnp.take_along_axis(tokens.tokens_BT, jnp.minimum(column_B + 1, length - 1)[:, None], axis=1)[:, 0]
        accepted_B = (column_B + 1 < tokens.count_B) & (draft_B == new.token)
        return step + 1, active_B & ~texts.finished_B & accepted_B, texts, drawn

    active_B = tokens.complete_B & ~texts.finished_B
    carry = (jnp.int32(0), active_B, texts, no_draws(rows, length, searches=False))
    _, _, texts, drawn = jax.lax.while_loop(goes_on, draw_once, carry)
    return texts, drawn
