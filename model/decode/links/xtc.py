"""XTC, "exclude top choices": the link that sometimes rules out the likeliest tokens. chain.py names it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.links.link import Memoryless
from model.decode.parameters import Number, parameter, parameterized


@parameterized
class XTC(Memoryless):
    """With the given probability, rules out all tokens of probability `threshold` or more but the least likely of them.

    There is no paper: it was proposed in a pull request to text-generation-webui (6335, by p-e-w, 2024) and taken over
    by llama.cpp. As in llama.cpp no token is exempt; text-generation-webui does nothing where a line break or the end
    of the text would be ruled out. Of equally unlikely ones the highest id stays, as the lowest ids rank first
    elsewhere. Hugging Face and vLLM do not have it.
    """

    probability: float = parameter(
        Number("a probability from 0 to 1, as xtc(probability=0.5,threshold=0.1)", least=0, most=1)
    )
    threshold: float = parameter(
        Number("a probability above 0 and up to 0.5 (no two tokens are likelier), as threshold=0.1", above=0, most=0.5),
        default=0.1,
    )

    def filter(self, state, logits_BV, key_B):
        acts_B = jax.vmap(jax.random.uniform)(key_B) < self.probability
        top_BV = jax.nn.softmax(logits_BV) >= self.threshold[:, None]
        least_B1 = jnp.where(top_BV, logits_BV, jnp.inf).min(-1, keepdims=True)
        ids_V = jnp.arange(logits_BV.shape[-1])
        stays_B1 = jnp.where(top_BV & (logits_BV == least_B1), ids_V, -1).max(-1, keepdims=True)
        return jnp.where(acts_B[:, None] & top_BV & (ids_V != stays_B1), -jnp.inf, logits_BV)
