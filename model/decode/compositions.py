"""Compositions of sources: the model alone, guidance by a second prompt, a contrast with a weaker model.

chain.py names them; they come first in a chain, since they make the logits that its links change.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.decode.parameters import Name, Number, Prompt, parameter, parameterized
from model.sharding import shard


@parameterized
class Alone:
    """One model that reads the text: its logits as they are."""

    runs = ("",)

    def texts(self, ids, prompt):
        return (ids,)

    def __call__(self, logits, vocab_size):
        return logits[0]


@parameterized
class Guidance:
    """Classifier-free guidance: away from what the model would write behind another prompt (Sanchez et al. 2023).

    log p + (scale - 1) (log p - log p'), where p' is what the model gives behind the other prompt and the new tokens.
    Scale 1 is the model alone. Without another prompt that branch sees the last token of the prompt.
    """

    runs = ("", "")

    scale: float = parameter(Number("a number from 0 to 100, as guidance(scale=1.5)", least=0, most=100), 1.5)
    prompt: str | tuple[int, ...] = parameter(
        Prompt('a text, or a list of ids, to write away from, as prompt="a dull text"'), ()
    )

    def texts(self, ids, prompt):
        return ids, [*(self.prompt or ids[prompt - 1 : prompt]), *ids[prompt:]]

    def __call__(self, logits, vocab_size):
        conditional, unconditional = (log_probabilities(logits_BTV, vocab_size) for logits_BTV in logits)
        return conditional + (self.scale[:, None, None] - 1) * (conditional - unconditional)


@parameterized
class Contrast:
    """Contrastive decoding: an expert's logits away from those of a weaker model, the amateur (Li et al. 2022).

    log p(expert) + beta (log p(expert) - log p(amateur)), among the tokens whose probability by the expert is at least
    alpha times that of its likeliest (O'Brien & Lewis 2023). `run`: the amateur's.
    """

    run: str = parameter(Name("a run with the same tokenizer, as contrast(run=runs/small)"), static=True)
    alpha: float = parameter(Number("a number from 0 to 1, as alpha=0.1", least=0, most=1), 0.1)
    beta: float = parameter(Number("a number from 0 to 100, as beta=0.5", least=0, most=100), 0.5)

    @property
    def runs(self) -> tuple[str, str]:
        return "", self.run

    def texts(self, ids, prompt):
        return ids, ids

    def __call__(self, logits, vocab_size):
        expert, amateur = (log_probabilities(logits_BTV, vocab_size) for logits_BTV in logits)
        least_BT1 = expert.max(-1, keepdims=True) + jnp.log(self.alpha)[:, None, None]
        contrast = expert + self.beta[:, None, None] * (expert - amateur)
        return jnp.where(expert < least_BT1, -jnp.inf, contrast)


def log_probabilities(logits_BTV: jax.Array, vocab_size: int) -> jax.Array:
    """float32 log-probabilities, in nats, of the ids below `vocab_size`: two models may pad theirs to other sizes."""
    return jax.nn.log_softmax(shard(logits_BTV.astype(jnp.float32), "batch", None, None)[..., :vocab_size])
