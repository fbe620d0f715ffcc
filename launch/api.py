"""Skald in a notebook: `from launch.api import load; run = load("runs/shakespeare@best"); run.generate("ROMEO:")`."""

from __future__ import annotations

from collections.abc import Sequence

from launch import machine

machine.prepare()  # before JAX is imported, here or below

import jax  # noqa: E402
import numpy as np  # noqa: E402

from launch import evaluate, generate  # noqa: E402
from launch.checkpointed import Checkpointed  # noqa: E402
from launch.writing import SAMPLER, Writer  # noqa: E402


class LoadedRun(Checkpointed):
    """A checkpoint: `config`, `tokenizer`, `step`, and three things to do with it."""

    def __init__(self, name: str):
        super().__init__(name)
        self.writer = Writer(self.model, self.tokenizer)
        self.forward = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens)))

    def generate(
        self,
        prompt: str,
        sampler: str = SAMPLER,
        max_new_tokens: int = 300,
        seed: int = 0,
        num_samples: int = 1,
        stop: Sequence[str] = (),
    ) -> list[dict]:
        """Samples with the keys of `skald generate --json`. Raises PromptError, SamplerError, DataError."""
        texts = self.writer.write([prompt], sampler=sampler, max_new_tokens=max_new_tokens, seed=seed,
                                  samples=num_samples, stops=stop)  # fmt: skip
        return [generate.sample(text, logprobs=True) for text in texts]

    def evaluate(self, text: str | None = None, window: int | None = None, stride: int | None = None) -> dict:
        """The keys of `skald evaluate --json`, over the validation split or the text file named."""
        return evaluate.evaluate(self, text, window, stride)

    def logits(self, tokens) -> np.ndarray:
        """int [B, T] -> float32 [B, T, V]: of each token's successor, for the tokenizer's V ids."""
        logits_BTV = self.forward(self.model, np.asarray(tokens, np.int32))
        return np.asarray(logits_BTV, np.float32)[..., : self.tokenizer.vocab_size]


def load(name: str) -> LoadedRun:
    """RUN, RUN@STEP, RUN@latest or RUN@best. Raises CheckpointError saying what there is."""
    return LoadedRun(name)
