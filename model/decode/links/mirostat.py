"""Mirostat 2: a threshold on surprise that learns from the tokens chosen so far. chain.py names it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.decode.links.link import History, LinkState, last_token
from model.decode.links.truncation import likeliest
from model.decode.parameters import Number, parameter, parameterized


class Memory(NamedTuple):
    """What Mirostat remembers: the threshold `mu_B`, and every token's surprise where the newest one was chosen."""

    mu_B: jax.Array
    surprise_BV: jax.Array


@parameterized
class Mirostat:
    """Keeps tokens whose surprise is at most mu, which moves until the mean surprise of a text is `tau` (bits).

    Basu et al. 2021, Mirostat 2.0: mu begins at 2 tau, and after each token falls by `eta` times its surprise's excess
    over tau. The surprise is -log2 of the probability that comes into this link, as in the paper and its authors'
    program; llama.cpp takes that after the cut, which is smaller. The likeliest tokens always stay. Hugging Face and
    vLLM do not have it.
    """

    tau: float = parameter(Number("a surprise in bits above 0, as mirostat(tau=5,eta=0.1)", above=0, most=1e3), 5.0)
    eta: float = parameter(Number("a learning rate above 0 and up to 10, as eta=0.1", above=0, most=10), 0.1)

    def start(self, history: History, vocab_size: int) -> Memory:
        # As if the newest token of the prompt had just the surprise that is wanted: it moves nothing.
        return Memory(2 * self.tau, jnp.tile(self.tau[:, None], (1, vocab_size)))

    def __call__(self, state: LinkState, logits_BV: jax.Array, key_B: jax.Array) -> tuple[Memory, jax.Array]:
        mu_B, surprise_BV = state.memory
        vocab_size = surprise_BV.shape[1]  # the logits may be wider: padding, which is never chosen
        chosen_BV = jnp.arange(vocab_size) == last_token(state.history)[:, None]
        mu_B = mu_B - self.eta * (jnp.where(chosen_BV, surprise_BV, 0).sum(-1) - self.tau)
        surprise_BV = -jax.nn.log_softmax(logits_BV) / jnp.log(2.0)
        keep_BV = (surprise_BV <= mu_B[:, None]) | likeliest(logits_BV)
        return Memory(mu_B, surprise_BV[:, :vocab_size]), jnp.where(keep_BV, logits_BV, -jnp.inf)
