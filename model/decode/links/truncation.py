"""Links that look at one distribution alone: temperature, and those that cut its tail off. chain.py names them."""

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
