"""The state that training carries from step to step, and how it is created. Saved by train/checkpoint.py."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from model.transformer import Transformer
from train import optimizer
from train.config import Experiment


class TrainState(NamedTuple):
    """The state after `step` updates. `average` is the moving average of the weights after each of them (before the
    first: the initial weights), or None."""

    step: jax.Array
    model: Transformer
    optimizer: optax.OptState
    average: Transformer | None

    @property
    def evaluation_model(self) -> Transformer:
        """The weights to evaluate and to generate with."""
        return self.model if self.average is None else self.average


def create_state(experiment: Experiment) -> TrainState:
    """The state at step 0, every array created sharded on the current mesh. Call it under jit."""
    model = Transformer(experiment.model, jax.random.key(experiment.seed), experiment.execution)
    transform = optimizer.make_optimizer(experiment.optimizer, experiment.steps)
    average = None if experiment.optimizer.average is None else jax.tree.map(jnp.copy, model)
    return TrainState(jnp.zeros((), jnp.int32), model, transform.init(model), average)
