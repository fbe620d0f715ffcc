"""The optax transform an experiment asks for: guards first, then the rule, then the rate. Used by train/step.py."""

from __future__ import annotations

import functools

import jax
import optax
from flax import nnx

from train import config as c
from train.muon import scale_by_muon
from train.schedule import rate


def is_parameter(x) -> bool:
    return isinstance(x, nnx.Param)


def matrices(parameters):
    """True for every parameter used as a matrix (embeddings and output too): those that weight decay acts on."""
    return jax.tree.map(lambda p: p.replace(bool(p.inputs)), parameters, is_leaf=is_parameter)


def hidden_matrices(parameters):
    """`muon` for the matrices inside layers, `adam` for the rest."""

    def label(p: nnx.Param) -> nnx.Param:
        return p.replace("muon" if p.inputs and p.axes[0] == "layers" else "adam")

    return jax.tree.map(label, parameters, is_leaf=is_parameter)


def adamw(rule: c.AdamW) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(rule.weight_decay, mask=matrices)
    return optax.chain(optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon), decay)


def make(optimizer: c.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping, the rule with its decoupled weight decay, and minus the scheduled rate."""
    match optimizer.rule:
        case c.AdamW() as rule:
            direction = adamw(rule)
        case c.Muon() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay)
            rest = optax.chain(adamw(rule.adam), optax.scale(rule.adam_rate))
            direction = optax.partition(
                {"muon": optax.chain(scale_by_muon(rule), decay), "adam": rest}, hidden_matrices
            )
        case c.Lion() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay, mask=matrices)
            direction = optax.chain(optax.scale_by_lion(rule.beta1, rule.beta2), decay)
        case c.Adafactor() as rule:
            decay = optax.add_decayed_weights(rule.weight_decay, mask=matrices)
            direction = optax.chain(optax.scale_by_factored_rms(decay_rate=rule.decay), decay)
    scheduled = functools.partial(rate, optimizer.schedule, optimizer.peak_rate, steps)
    clip = [] if optimizer.clip is None else [optax.clip_by_global_norm(optimizer.clip)]
    return optax.chain(*clip, direction, optax.scale_by_learning_rate(scheduled))
