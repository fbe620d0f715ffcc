"""One training step, and several in one dispatch: pure functions of (state, rows). train/program.py compiles them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from data.rows import Rows
from model.config import Attention
from train import loss, optimizer
from train.config import Experiment
from train.learning_rate import learning_rate
from train.objective import make_objective
from train.state import TrainState


def loss_and_gradient(experiment: Experiment, state: TrainState, rows: Rows, key: jax.Array):
    """The means of the objective's metrics, `train/loss` in nats among them, and the gradient of that loss with the
    added terms. Microbatches [M, B, T] run one after another; their sums and gradients add up in float32."""
    objective = make_objective(experiment)

    def total_loss(trained, rows, key):
        sums = objective.sum_losses(state.whole(trained), state.frozen, rows, key)
        return sums.loss + sums.added, sums

    def accumulate(total, microbatch):
        rows, key = microbatch
        (_, sums), gradient = jax.value_and_grad(total_loss, has_aux=True)(state.model, rows, key)
        return jax.tree.map(jnp.add, total, (sums, gradient)), None

    count = rows.tokens.shape[0]
    keys = [None] * count if key is None else jax.random.split(key, count)
    zero_metrics = dict(zip(objective.metrics, jnp.zeros(len(objective.metrics)), strict=True))
    zero = (loss.TrainingSums(*jnp.zeros(3), zero_metrics), jax.tree.map(jnp.zeros_like, state.model))
    if count == 1:
        total, _ = accumulate(zero, (jax.tree.map(lambda x: x[0], rows), keys[0]))
    else:
        total, _ = jax.lax.scan(accumulate, zero, (rows, None if key is None else keys))
    sums, gradient = total
    weight = jnp.maximum(sums.weight, 1)
    means = {f"train/{name}": value / weight for name, value in ({"loss": sums.loss} | sums.metrics).items()}
    return means, jax.tree.map(lambda g: g / weight, gradient)


def train_step(experiment: Experiment, state: TrainState, rows: Rows) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update on rows [M, B, T]. Metrics: those of the objective (`train/loss`: nats a token, or a preference pair),
    `grad_norm` before clipping, `rate`."""
    transform = optimizer.make_optimizer(experiment.optimizer, experiment.steps)
    key = jax.random.fold_in(jax.random.key(experiment.seed + 1), state.step) if uses_dropout(experiment) else None
    metrics, gradient = loss_and_gradient(experiment, state, rows, key)
    updates, optimizer_state = transform.update(gradient, state.optimizer, state.model)
    model = optax.apply_updates(state.model, updates)
    average = state.average
    if average is not None:
        average = update_average(average, model, experiment.optimizer.average, state.step + 1)
    metrics |= {
        "grad_norm": optimizer.gradient_norm(gradient),
        "rate": learning_rate(
            experiment.optimizer.schedule, experiment.optimizer.peak_rate, experiment.steps, state.step
        ),
    }
    return TrainState(state.step + 1, model, optimizer_state, average, state.frozen), metrics


def update_average(average, model, decay: float, step: jax.Array):
    """The moving average after update `step` (the first is 1), which made the weights of `model`: the sum over i of
    decay^(step - i) times the weights after update i, divided by the sum of these factors. Nothing of the initial
    weights stays in it (Kingma & Ba 2015, section 3)."""
    total = -jnp.expm1(step * (math.log(decay) if decay else -math.inf))  # 1 - decay^step, exact for a decay near 1
    return optax.incremental_update(model, average, (1 - decay) / total)


def train_steps(experiment: Experiment, state: TrainState, rows: Rows) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update for each entry of rows [steps, M, B, T]; metrics [steps]."""
    return jax.lax.scan(lambda state, rows: train_step(experiment, state, rows), state, rows)


def uses_dropout(experiment: Experiment) -> bool:
    """Whether any part of the model uses dropout: without it no random numbers are drawn."""
    blocks = [block for stack in experiment.model.layers for block in stack.pattern]
    attention = [block.mixer.dropout for block in blocks if isinstance(block.mixer, Attention)]
    return any((experiment.model.dropout, *attention, *(block.dropout for block in blocks)))
