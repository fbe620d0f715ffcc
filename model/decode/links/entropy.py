"""Links that cut a distribution by its entropy: locally typical, eta, and top-H. chain.py names them.

Entropies are in nats. They are taken from the logits that come in: over the tokens that earlier links left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import Memoryless
from model.decode.links.selection import boundary, masked_sum, nucleus_mask
from model.decode.links.truncation import likeliest
from model.decode.parameters import Number, parameter, parameterized


@parameterized
class Typical(Memoryless):
    """Keeps the smallest set with probability `p` or more of those tokens whose surprise is nearest to the entropy.

    Meister et al. 2023. Of equally near ones it keeps the lowest ids; Hugging Face keeps all of them, and llama.cpp
    goes on until the probability is above p. vLLM does not have it.
    """

    p: float = parameter(Number("a probability above 0 and up to 1, as typical=0.9", above=0, most=1))

    def filter(self, state, logits_BV, key_B):
        log_probability_BV = jax.nn.log_softmax(logits_BV)
        distance_BV = jnp.abs(log_probability_BV + entropy(log_probability_BV)[:, None])
        keep_BV = nucleus_mask(jnp.exp(log_probability_BV), self.p, order_BV=-distance_BV) | (self.p == 1)[:, None]
        return jnp.where(keep_BV, logits_BV, -jnp.inf)


@parameterized
class Eta(Memoryless):
    """Keeps tokens of a probability above min(epsilon, sqrt(epsilon) * exp(-entropy)); if there is none, the likeliest.

    Hewitt et al. 2022, with their choice of alpha. Hugging Face also keeps those of exactly that probability; vLLM
    and llama.cpp do not have it.
    """

    epsilon: float = parameter(Number("a probability above 0 and up to 1, as eta=3e-4", above=0, most=1))

    def filter(self, state, logits_BV, key_B):
        log_probability_BV = jax.nn.log_softmax(logits_BV)
        log_epsilon_B = jnp.log(self.epsilon)
        log_eta_B = jnp.minimum(log_epsilon_B, log_epsilon_B / 2 - entropy(log_probability_BV))
        return jnp.where((log_probability_BV > log_eta_B[:, None]) | likeliest(logits_BV), logits_BV, -jnp.inf)


@parameterized
class TopH(Memoryless):
    """Keeps the likeliest tokens, as many as have an entropy of at most `alpha` times that of all tokens.

    Potraghloo et al. 2025, algorithm 1: the entropy is that of the kept tokens' distribution, scaled to sum to 1. Of
    equally likely tokens it keeps the lowest ids; at least one token stays. Hugging Face instead sums the terms
    -p log p of the 100 likeliest tokens without scaling them, and so keeps other sets.
    """

    alpha: float = parameter(Number("a share of the entropy above 0 and up to 1, as top_h=0.4", above=0, most=1))

    def filter(self, state, logits_BV, key_B):
        # Relative to the likeliest token, so that one token alone has an entropy of exactly 0.
        relative_BV = logits_BV - logits_BV.max(-1, keepdims=True)
        weight_BV = jnp.exp(relative_BV)
        term_BV = jnp.where(weight_BV > 0, weight_BV * relative_BV, 0)

        def kept_entropy(mask_BV):
            weight_B = masked_sum(weight_BV, mask_BV)
            return jnp.log(weight_B) - masked_sum(term_BV, mask_BV) / weight_B

        most_B = self.alpha * kept_entropy(jnp.full_like(weight_BV, True, bool))
        allowed_BV, _ = boundary(logits_BV, lambda mask_BV: kept_entropy(mask_BV) > most_B)
        return jnp.where(allowed_BV | (self.alpha == 1)[:, None], logits_BV, -jnp.inf)


def entropy(log_probability_BV: jax.Array) -> jax.Array:
    """[B, V] -> [B], nats. Tokens of probability 0 add nothing."""
    possible_BV = log_probability_BV > -jnp.inf
    return -jnp.where(possible_BV, jnp.exp(log_probability_BV) * log_probability_BV, 0).sum(-1)
