"""Links that look at one distribution alone: temperature, and those that cut its tail off by rank, mass or a threshold.

chain.py names them. A threshold treats equals equally, and the likeliest tokens always pass; a rank or a mass keeps, of
equal tokens, those with the lowest ids.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import Memoryless
from model.decode.links.selection import likeliest_mask, nucleus_mask
from model.decode.parameters import Number, parameter, parameterized


@parameterized
class Temperature(Memoryless):
    """Logits divided by `value`: below 1 sharpens the distribution, above 1 flattens it (Ackley et al. 1985)."""

    value: float = parameter(
        Number(
            "a number from 1e-6 to 1e6, as temperature=0.8 (for the likeliest token alone write greedy)",
            least=1e-6,
            most=1e6,
        )
    )

    def filter(self, state, logits_BV, key_B):
        return logits_BV / self.value[:, None]


@parameterized
class TopK(Memoryless):
    """Keeps the k likeliest tokens (Fan et al. 2018, 5.4); of equally likely ones those with the lowest ids."""

    k: int = parameter(Number("a whole number of tokens from 1, as top_k=50", least=1, most=2**31 - 1, whole=True))

    def filter(self, state, logits_BV, key_B):
        return jnp.where(likeliest_mask(logits_BV, self.k), logits_BV, -jnp.inf)


@parameterized
class TopP(Memoryless):
    """Keeps the smallest set of likeliest tokens with probability p or more, the nucleus (Holtzman et al. 2020, 3.1).

    Of equally likely tokens it keeps the lowest ids; at least one token stays.
    """

    p: float = parameter(Number("a probability above 0 and up to 1, as top_p=0.95", above=0, most=1))

    def filter(self, state, logits_BV, key_B):
        keep_BV = nucleus_mask(jax.nn.softmax(logits_BV), self.p) | (self.p == 1)[:, None]
        return jnp.where(keep_BV, logits_BV, -jnp.inf)


@parameterized
class MinP(Memoryless):
    """Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al. 2024).

    Hugging Face, vLLM and llama.cpp keep the same. Logits are compared, as in llama.cpp: that takes no softmax.
    """

    p: float = parameter(Number("a share of the greatest probability, from 0 to 1, as min_p=0.05", least=0, most=1))

    def filter(self, state, logits_BV, key_B):
        likeliest_B1 = logits_BV.max(-1, keepdims=True)
        return jnp.where(logits_BV >= likeliest_B1 + jnp.log(self.p)[:, None], logits_BV, -jnp.inf)


@parameterized
class Epsilon(Memoryless):
    """Keeps tokens of a probability above `epsilon`; if there is none, the likeliest (Hewitt et al. 2022).

    Hugging Face also keeps those of exactly that probability; vLLM and llama.cpp do not have it.
    """

    epsilon: float = parameter(Number("a probability above 0 and up to 1, as epsilon=3e-4", above=0, most=1))

    def filter(self, state, logits_BV, key_B):
        keep_BV = jax.nn.log_softmax(logits_BV) > jnp.log(self.epsilon)[:, None]
        return jnp.where(keep_BV | likeliest(logits_BV), logits_BV, -jnp.inf)


@parameterized
class TopNSigma(Memoryless):
    """Keeps logits that are at most `n` standard deviations of the logits below the greatest (Tang et al. 2024).

    The deviation is that of all tokens not ruled out so far, as in llama.cpp; it is the same for each temperature.
    Hugging Face and vLLM do not have it.
    """

    n: float = parameter(Number("a number of standard deviations above 0, as top_nsigma=1", above=0, most=1e6))

    def filter(self, state, logits_BV, key_B):
        deviation_B1 = jnp.std(logits_BV, axis=-1, keepdims=True, where=logits_BV > -jnp.inf)
        least_B1 = logits_BV.max(-1, keepdims=True) - self.n[:, None] * deviation_B1
        return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def likeliest(logits_BV: jax.Array) -> jax.Array:
    """bool [B, V]: the greatest logits of each row, all that are equal."""
    return logits_BV == logits_BV.max(-1, keepdims=True)
