"""Links that raise, lower or rule out tokens which a person names: by words, by ids, or as those that end a text.

Words are ids by the time that they come here (launch/inference/words.py). chain.py names these links.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import History, Memoryless
from model.decode.parameters import Biases, Number, Phrases, parameter, parameterized


@parameterized
class LogitBias(Memoryless):
    """Adds an amount to the logits of tokens, as OpenAI's and vLLM's `logit_bias`; to those of several ids in a row at
    the last one, where the text ends with the others, as transformers' `sequence_bias`.

    A token's odds against the others are multiplied by e^amount. A word must be one token by itself or behind a space;
    where it is one both ways, both get the amount.
    """

    amounts: tuple = parameter(
        Biases(
            'amounts from -10000 to 10000 by word or id, as logit_bias={"yes": 2, "198": -100}; in pairs "198" is a '
            'word, [198, 13] two ids in a row, as logit_bias=[["198", 2], [[198, 13], -1]]'
        )
    )

    def filter(self, state, logits_BV, key_B):
        ids_BN = completing_ids(state.history, self.amounts.phrases_BNL, logits_BV.shape[1])
        return jax.vmap(lambda logits_V, ids_N, amounts_N: logits_V.at[ids_N].add(amounts_N, mode="drop"))(
            logits_BV, ids_BN, self.amounts.amounts_BN
        )


@parameterized
class BannedWords(Memoryless):
    """Rules out the last token of each phrase wherever the text, prompt included, ends with the tokens before it.

    So does transformers' `bad_words_ids`. A word is banned as the tokens that the tokenizer makes of it at the
    beginning of a text, behind a line break and behind a space. What is not caught: other capitals, tokens that hold
    more than the word (`foobar` for `foo`), and other tokens that spell it (`f`, `oo`), which models seldom write.
    """

    phrases: tuple = parameter(
        Phrases('words, or lists of ids, as banned_words=["foo", "the end"] or banned_words=[[5], [7, 9]]')
    )

    def filter(self, state, logits_BV, key_B):
        return rule_out(logits_BV, completing_ids(state.history, self.phrases, logits_BV.shape[1]))


@parameterized
class MinLength(Memoryless):
    """Rules out the tokens that end a text until so many new ones stand before them (transformers' `min_new_tokens`).

    A stop text may still end it.
    """

    tokens: int = parameter(
        Number("a whole number of new tokens from 1, as min_length=20", least=1, most=2**31 - 1, whole=True)
    )

    def filter(self, state, logits_BV, key_B):
        short_B = state.history.length_B - state.history.prompt_B < self.tokens
        is_id_BE = short_B[:, None] & (state.stop_BE >= 0)
        return rule_out(logits_BV, jnp.where(is_id_BE, state.stop_BE, logits_BV.shape[1]))


def completing_ids(history: History, phrases_BNL: jax.Array, vocab_size: int) -> jax.Array:
    """The last id of each phrase [B, N, L] that it would complete if it came next; of other phrases `vocab_size`."""
    count_BN = (phrases_BNL >= 0).sum(-1)
    distance_BNL = count_BN[..., None] - 1 - jnp.arange(phrases_BNL.shape[-1])  # from a phrase's last id; < 0: padding
    index_BNL = history.length_B[:, None, None] - distance_BNL
    written_BNL = jax.vmap(lambda tokens_S, index_NL: tokens_S[index_NL])(
        history.tokens_BS, jnp.clip(index_BNL, 0, history.tokens_BS.shape[1] - 1)
    )
    fits_BN = ((distance_BNL <= 0) | ((index_BNL >= 0) & (written_BNL == phrases_BNL))).all(-1)
    last_BN = jnp.where(distance_BNL == 0, phrases_BNL, 0).sum(-1)
    return jnp.where((count_BN > 0) & fits_BN, last_BN, vocab_size)


def rule_out(logits_BV: jax.Array, ids_BN: jax.Array) -> jax.Array:
    """Logits with -inf at ids; V is none."""
    return jax.vmap(lambda logits_V, ids_N: logits_V.at[ids_N].set(-jnp.inf, mode="drop"))(logits_BV, ids_BN)
