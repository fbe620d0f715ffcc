"""Skald in a notebook: `from launch.api import load; run = load("runs/shakespeare@best"); run.generate("ROMEO:")`."""

from __future__ import annotations

from launch import machine

machine.prepare("write")

import jax
import numpy as np

from launch import evaluate, generate
from launch.checkpointed import Checkpointed
from launch.writing import Writer


class LoadedRun(Checkpointed):
    """A checkpoint: `config`, `tokenizer`, `step`, and three things to do with it."""

    def __init__(self, name: str):
        super().__init__(name)
        self.writer = Writer(self.model, self.tokenizer)
        self.forward = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens)))

    def generate(
        self,
        prompt: str,
        sampler: str = "temperature=0.8,top_p=0.95",
        max_new_tokens: int = 200,
        seed: int = 0,
        num_samples: int = 1,
        stop: tuple[str, ...] = (),
    ) -> list[dict]:
        """Samples with the keys of `skald generate --json`. Raises PromptError, SamplerError, DataError."""
        wanted = {"sampler": sampler, "max_new_tokens": max_new_tokens, "seed": seed, "samples": num_samples}
        texts = self.writer.write([prompt], **wanted, stops=stop)
        return [generate.sample(text, wanted, logprobs=True) for text in texts]

    def evaluate(self, text: str | None = None, window: int | None = None, stride: int | None = None) -> dict:
        """The keys of `skald evaluate --json`, over the validation split or the text file named."""
        return evaluate.evaluate(self, text, window, stride)

    def logits(self, tokens) -> np.ndarray:
        """int [B, T] -> float32 [B, T, V]: of each token's successor."""
        return np.asarray(self.forward(self.model, np.asarray(tokens, np.int32)), np.float32)


def load(name: str) -> LoadedRun:
    """RUN, RUN@STEP, RUN@latest or RUN@best. Raises CheckpointError saying what there is."""
    return LoadedRun(name)
