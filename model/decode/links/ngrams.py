"""no_repeat_ngram, and what it shares with DRY: where in a text its own end stands already. chain.py names the link."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import History, Memoryless
from model.decode.parameters import Number, parameter, parameterized


@parameterized
class NoRepeatNGram(Memoryless):
    """Rules out each token that would end a sequence of n tokens which the text, prompt included, holds already.

    Paulus et al. 2018, 2.5, n = 3; fairseq and Hugging Face count the prompt, too. It can rule out every token.
    """

    n: int = parameter(Number("a whole number of tokens from 1 to 1000, as no_repeat_ngram=3", 1, 1000, whole=True))

    def filter(self, state, logits_BV, key_B):
        written_BS = written_positions(state.history)
        matchable_BS = jnp.where(written_BS, state.history.tokens_BS, -1)
        length_BS = suffix_match_lengths(state.history, matchable_BS, self.n - 1)
        repeats_BS = written_BS & (length_BS == self.n[:, None] - 1)
        ruled_out_BV = greatest_by_token(state.history.tokens_BS, repeats_BS, logits_BV.shape[1])
        return jnp.where(ruled_out_BV, -jnp.inf, logits_BV)


def suffix_match_lengths(history: History, matchable_BS: jax.Array, limit_B: jax.Array) -> jax.Array:
    """How many of the tokens before each position equal the last ones of the text, `limit_B` at most: int32 [B, S].

    `matchable_BS`: the tokens; -1 is one that a match can't hold. Costs S for each token of the longest match.
    """
    newest_B = history.length_B - 1

    def unfinished(carry):
        return carry[2].any()

    def extend(carry):
        step, before_BS, matches_BS, length_BS = carry
        token_B1 = jnp.take_along_axis(history.tokens_BS, jnp.maximum(newest_B - step, 0)[:, None], axis=1)
        before_BS = jnp.pad(before_BS, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        matches_BS &= (before_BS == token_B1) & (step < limit_B)[:, None]
        return step + 1, before_BS, matches_BS, length_BS + matches_BS

    start = (jnp.int32(0), matchable_BS, written_positions(history), jnp.zeros_like(matchable_BS))
    return jax.lax.while_loop(unfinished, extend, start)[3]


def written_positions(history: History) -> jax.Array:
    """bool [B, S]: the positions that hold a token of the text."""
    return jnp.arange(history.tokens_BS.shape[1]) < history.length_B[:, None]


def greatest_by_token(tokens_BS: jax.Array, values_BS: jax.Array, vocab_size: int) -> jax.Array:
    """The greatest value at each token's positions, 0 or False where it has none: [B, V]. Values are not negative."""

    def greatest(tokens_S, values_S):  # a row at a time, so that a mesh need not bring the rows together
        return jnp.zeros(vocab_size, values_S.dtype).at[tokens_S].max(values_S, mode="drop")

    return jax.vmap(greatest)(tokens_BS, values_BS)
