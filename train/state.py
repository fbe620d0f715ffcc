"""The state that training carries from step to step, and how it is created. Saved by train/checkpoint.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from model import lora
from model.transformer import Transformer
from train import optimizer
from train.config import Experiment
from train.objective import make_objective

Trained = Transformer | lora.Adapters  # what steps update


class TrainState(NamedTuple):
    """The state after `step` updates of `model`: the weights, or the adapters beside the weights in `frozen`.

    Steps read `frozen` and never update it: the weights that adapters stand beside, the reference model of an objective
    that has one (train/objective.py), or both in one. `average` is the moving average of what was trained after each
    update (before the first: what it was at first), or None."""

    step: jax.Array
    model: Trained
    optimizer: optax.OptState
    average: Trained | None
    frozen: Transformer | None = None

    def whole(self, trained: Trained) -> Transformer:
        """The model of which `trained` is what is trained: it computes losses and logits."""
        return trained if isinstance(trained, Transformer) else lora.combine(self.frozen, trained)

    @property
    def evaluation_model(self) -> Transformer:
        """The model to evaluate and to generate with."""
        return self.whole(self.model if self.average is None else self.average)


def random_weights(experiment: Experiment) -> Transformer:
    return Transformer(experiment.model, jax.random.key(experiment.seed), experiment.execution)


def create_state(experiment: Experiment, weights: Transformer | None = None) -> TrainState:
    """The state at step 0, from these weights or from random ones, every array created sharded on the current mesh.
    Call it under jit."""
    model, frozen = random_weights(experiment) if weights is None else weights, None
    if experiment.lora is not None:
        is_untied = lora.adapted_config(experiment.model, experiment.lora) != experiment.model
        frozen = lora.untie(model) if is_untied else model
        model = lora.create_adapters(experiment.model, experiment.lora, jax.random.key(experiment.seed))
    elif make_objective(experiment).keeps_reference:
        frozen = jax.tree.map(jnp.copy, model)
    transform = optimizer.make_optimizer(experiment.optimizer, experiment.steps)
    average = None if experiment.optimizer.average is None else jax.tree.map(jnp.copy, model)
    return TrainState(jnp.zeros((), jnp.int32), model, transform.init(model), average, frozen)
