"""Builds an experiment's optax transform: clipping, then the update rule, then the rate. Used by train/step.py."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from model.layers import BalancingBias
from train import config as c
from train.adafactor import scale_by_adafactor
from train.learning_rate import learning_rate
from train.muon import scale_by_muon


def is_parameter(x) -> bool:
    return isinstance(x, nnx.Param)


def weight_decay_mask(parameters):
    """True for every parameter that weight decay acts on: those used as a matrix, embeddings and output too."""
    return jax.tree.map(lambda p: p.replace(bool(p.input_axes)), parameters, is_leaf=is_parameter)


def muon_labels(parameters):
    """`muon` for the matrices inside layers, `adam` for the rest."""

    def label(p: nnx.Param) -> nnx.Param:
        return p.replace("muon" if p.input_axes and p.axes[0] == "layers" else "adam")

    return jax.tree.map(label, parameters, is_leaf=is_parameter)


def parameter_labels(parameters):
    """`balance` for the biases that even out the experts' load, `weight` for everything that the loss trains."""

    def label(p: nnx.Param) -> nnx.Param:
        return p.replace("balance" if isinstance(p, BalancingBias) else "weight")

    return jax.tree.map(label, parameters, is_leaf=is_parameter)


def gradient_norm(gradient) -> jax.Array:
    """The global norm of the weights' gradient: what clipping sees."""
    parameters = jax.tree.leaves(gradient, is_leaf=is_parameter)
    return optax.tree.norm([p[...] for p in parameters if not isinstance(p, BalancingBias)])


def balance_expert_load() -> optax.GradientTransformation:
    """Moves every bias by its own rate: down where its expert took more than an even share, up where less (Wang et al.
    2024, algorithm 1)."""

    def step(p: nnx.Param) -> nnx.Param:
        return p.replace(-p.rate * jnp.sign(p[...])) if isinstance(p, BalancingBias) else p

    return optax.stateless(lambda gradient, _: jax.tree.map(step, gradient, is_leaf=is_parameter))


def adamw(rule: c.AdamW) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(rule.weight_decay, mask=weight_decay_mask)
    return optax.chain(optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon), decay)


def make_optimizer(optimizer: c.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping, the rule with its decoupled weight decay, and minus the scheduled rate. The balancing biases of experts
    have a rule of their own."""
    match optimizer.rule:
        case c.AdamW() as rule:
            direction = adamw(rule)
        case c.Muon() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay)
            rest = optax.chain(adamw(rule.adam), optax.scale(rule.adam_rate))
            direction = optax.partition({"muon": optax.chain(scale_by_muon(rule), decay), "adam": rest}, muon_labels)
        case c.Lion() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay, mask=weight_decay_mask)
            direction = optax.chain(optax.scale_by_lion(rule.beta1, rule.beta2), decay)
        case c.Adafactor() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay, mask=weight_decay_mask)
            direction = optax.chain(scale_by_adafactor(rule), decay)
    rate = functools.partial(learning_rate, optimizer.schedule, optimizer.peak_rate, steps)
    clip = [] if optimizer.clip is None else [optax.clip_by_global_norm(optimizer.clip)]
    weight = optax.chain(*clip, direction, optax.scale_by_learning_rate(rate))
    return optax.partition({"weight": weight, "balance": balance_expert_load()}, parameter_labels)
