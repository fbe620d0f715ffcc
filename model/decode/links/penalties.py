"""Links that make the tokens of a text less likely to come again: repetition, presence and frequency penalty.

They see the whole text, however little of it the model still sees, and remember nothing. chain.py names them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import History, Memoryless
from model.decode.parameters import Number, parameter, parameterized

# OpenAI takes -2 to 2. A penalty may stand before or behind a temperature here, and the same effect behind temperature
# 0.1 takes ten times as much.
AMOUNT = "a number from -100 to 100, above 0 to repeat less, as {}=0.5"


@parameterized
class RepetitionPenalty(Memoryless):
    """Makes the tokens of the text, prompt included, less likely: divides logits above 0 by `value`, multiplies others.

    Keskar et al. 2019, 4.1, divide logits of either sign, which makes those below 0 likelier. Hugging Face and vLLM
    look at the sign and count the prompt, as here; llama.cpp counts the last 64 tokens alone.
    """

    value: float = parameter(
        Number("a number from 0.01 to 100, above 1 to repeat less, as repetition_penalty=1.1", least=0.01, most=100)
    )

    def filter(self, state, logits_BV, key_B):
        value_B1 = self.value[:, None]
        penalized_BV = jnp.where(logits_BV < 0, logits_BV * value_B1, logits_BV / value_B1)
        seen_BV = token_counts(state.history, 0, logits_BV.shape[1]) > 0
        return jnp.where(seen_BV, penalized_BV, logits_BV)


@parameterized
class PresencePenalty(Memoryless):
    """Takes `value` from the logit of each token among the new ones, once (OpenAI's API; nats).

    The prompt does not count, as with OpenAI and vLLM; llama.cpp counts the last 64 tokens, those of the prompt too.
    """

    value: float = parameter(Number(AMOUNT.format("presence_penalty"), least=-100, most=100))

    def filter(self, state, logits_BV, key_B):
        count_BV = token_counts(state.history, state.history.prompt_B, logits_BV.shape[1])
        return logits_BV - self.value[:, None] * (count_BV > 0)


@parameterized
class FrequencyPenalty(Memoryless):
    """Takes `value` from a token's logit for each time that it is among the new ones (OpenAI's API; nats).

    The prompt does not count, as for PresencePenalty.
    """

    value: float = parameter(Number(AMOUNT.format("frequency_penalty"), least=-100, most=100))

    def filter(self, state, logits_BV, key_B):
        count_BV = token_counts(state.history, state.history.prompt_B, logits_BV.shape[1])
        return logits_BV - self.value[:, None] * count_BV


def token_counts(history: History, first_B: jax.Array | int, vocab_size: int) -> jax.Array:
    """How often each token is in each text from position `first_B` on: int32 [B, V]."""
    position_S = jnp.arange(history.tokens_BS.shape[1])
    counted_BS = (position_S >= jnp.reshape(first_B, (-1, 1))) & (position_S < history.length_B[:, None])

    def count(tokens_S, counted_S):  # a row at a time, so that a mesh need not bring the rows together
        return jnp.zeros(vocab_size, jnp.int32).at[tokens_S].add(counted_S, mode="drop")

    return jax.vmap(count)(history.tokens_BS, counted_BS)
