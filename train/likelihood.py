"""The objective of language modelling: the loss of every next token. train/objective.py chooses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax

from data.documents import Documents
from data.rows import Rows, ScoredRows
from data.windows import scoring_rows
from model.transformer import Transformer
from train import evaluate, loss
from train.config import LikelihoodLoss


class Likelihood:
    """An Objective: -log p of each token that counts, in nats, with a z-loss. It reads no reference model."""

    keeps_reference, metrics = False, ()

    def __init__(self, config: LikelihoodLoss, z_loss: float):
        self.config, self.z_loss = config, z_loss

    def sum_losses(
        self, model: Transformer, reference: Transformer | None, rows: Rows, key: jax.Array | None
    ) -> loss.TrainingSums:
        del reference
        return loss.sum_losses(model, rows, key, self.z_loss, self.config.label_smoothing)

    def batches(self, documents: Documents, length: int, batch_size: int) -> Iterator[ScoredRows]:
        """Rows in windows that do not overlap."""
        return scoring_rows(documents, length, length, batch_size)

    def batch_sums(self, model: Transformer, reference: Transformer | None, batch: ScoredRows) -> evaluate.LossSums:
        del reference
        return evaluate.add_losses(model, batch)

    def scores(self, sums: Iterable[evaluate.LossSums], text_bytes: int) -> dict[str, float]:
        found = evaluate.metrics(evaluate.add_up(sums), text_bytes)
        return {name: found[name] for name in ("loss", "perplexity", "bits_per_byte")}

    def describe(self, values: dict[str, float]) -> str:
        return f"loss {values['eval/loss']:.4f} nats a token, {values['eval/bits_per_byte']:.4f} bits a byte"
