"""What a run minimises, and by what it is evaluated: the Objective of a config. train/step.py takes its gradient,
train/listeners/evaluation.py its scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import jax

from data.documents import Documents
from data.rows import Rows, ScoredRows
from model import cost
from model.transformer import Transformer
from train import config as c
from train.dpo import PreferenceLoss
from train.likelihood import Likelihood
from train.loss import TrainingSums


class Objective(Protocol):
    """`keeps_reference`: whether the weights that a run begins with are kept (TrainState.frozen) and read in every
    step. `metrics`: the names of what `sum_losses` adds up besides losses."""

    keeps_reference: bool
    metrics: tuple[str, ...]

    def sum_losses(
        self, model: Transformer, reference: Transformer | None, rows: Rows, key: jax.Array | None
    ) -> TrainingSums:
        """The sums over rows [B, T] in training; a `key` is for dropout."""
        ...

    def batches(self, documents: Documents, length: int, batch_size: int) -> Iterator[Rows | ScoredRows]:
        """The rows that score documents, each once, in batches."""
        ...

    def batch_sums(self, model: Transformer, reference: Transformer | None, batch: Rows | ScoredRows):
        """The sums over one of these batches, traceable."""
        ...

    def scores(self, sums: Iterable, text_bytes: int) -> dict[str, float]:
        """The metrics of evaluation by name, `loss` first, from the sums of all batches of so many bytes of text."""
        ...

    def describe(self, values: dict[str, float]) -> str:
        """A line for a person, from `scores` with eval/ in front of each name."""
        ...


def make_objective(experiment: c.Experiment) -> Objective:
    """The objective of an experiment."""
    return OBJECTIVES[type(experiment.objective)](experiment)


OBJECTIVES = {
    c.LikelihoodLoss: lambda experiment: Likelihood(experiment.objective, experiment.z_loss),
    c.DPO: lambda experiment: PreferenceLoss(experiment.objective),
}


def training_flops(e: c.Experiment) -> float:
    """FLOPs a token of a training step, with the forward pass of the reference model where there is one."""
    flops = cost.training_flops(e.model, e.data.length, e.lora is not None)
    return flops + (cost.forward_flops(e.model, e.data.length) if make_objective(e).keeps_reference else 0)
