"""DRY ("don't repeat yourself"): a penalty that grows with the length of the repetition. chain.py names the link."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import Memoryless
from model.decode.links.ngrams import greatest_by_token, suffix_match_lengths, written_positions
from model.decode.parameters import Number, Phrases, parameter, parameterized

LONGER = 50  # a match more than so many tokens longer than allowed counts as no longer: more only costs time
GREATEST_POWER = 1e30  # so that the penalty is finite, behind any temperature too: DRY rules no token out
WHOLE_TEXT = 2**31 - 1


@parameterized
class DRY(Memoryless):
    """Takes multiplier · base^(length - allowed_length) from the logit of each token that would lengthen a repetition.

    `length`: of the longest sequence that ends the text and stands in it already, prompt included, right before that
    token; shorter ones than `allowed_length` cost nothing. A breaker is never in such a sequence, and never penalized
    itself. It is one token: of a phrase of several ids the last. `range`: looks at so many last tokens alone.

    The definition is text-generation-webui's (p-e-w 2024); llama.cpp's is the same but for how far the longest matches
    count: webui 50 tokens, llama.cpp until float32 overflows, here 50 more than `allowed_length`. By default there is
    no breaker: both of them break at line break, colon, quotation mark and asterisk.
    """

    multiplier: float = parameter(Number("a number from 0 to 100, as dry=0.8", least=0, most=100))
    base: float = parameter(Number("a number from 1 to 100, as base=1.75", least=1, most=100), default=1.75)
    allowed_length: int = parameter(
        Number("a whole number of tokens from 1 to 1000, as allowed_length=2", 1, 1000, whole=True), default=2
    )
    breakers: tuple = parameter(Phrases('a list of texts, as breakers=["\\n",":"]'), default=())
    range: int = parameter(
        Number("a whole number of tokens from 1, as range=1024", 1, WHOLE_TEXT, whole=True), default=WHOLE_TEXT
    )

    def filter(self, state, logits_BV, key_B):
        tokens_BS, length_B = state.history.tokens_BS, state.history.length_B
        first_B = jnp.maximum(length_B - self.range, 0)
        matchable_BS = written_positions(state.history) & (jnp.arange(tokens_BS.shape[1]) >= first_B[:, None])
        matchable_BS &= ~(tokens_BS[:, :, None] == last_ids(self.breakers)[:, None, :]).any(-1)
        limit_B = self.allowed_length + LONGER
        match_BS = suffix_match_lengths(state.history, jnp.where(matchable_BS, tokens_BS, -1), limit_B)
        excess_BS = match_BS - self.allowed_length[:, None]
        penalty_BS = self.multiplier[:, None] * jnp.minimum(self.base[:, None] ** excess_BS, GREATEST_POWER)
        penalty_BS = jnp.where(matchable_BS & (excess_BS >= 0), penalty_BS, 0)
        return logits_BV - greatest_by_token(tokens_BS, penalty_BS, logits_BV.shape[1])


def last_ids(phrases_BNL: jax.Array) -> jax.Array:
    """The last id of each phrase, -1 of one that is padding: [B, N, L] -> [B, N]."""
    last_BN = jnp.maximum((phrases_BNL >= 0).sum(-1) - 1, 0)
    return jnp.take_along_axis(phrases_BNL, last_BN[:, :, None], axis=2)[:, :, 0]
