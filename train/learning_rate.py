"""The learning rate of every step. train/optimizer.py calls it, and train/step.py for the metrics."""

from __future__ import annotations

import jax.numpy as jnp

from train.config import Schedule


def learning_rate(schedule: Schedule, peak: float, steps: int, step):
    """The learning rate of update number `step` (from 0) of `steps`, traceable in `step`.

    Warm-up begins at peak / (warmup + 1), not at 0, as in nanoGPT. Cosine: Loshchilov & Hutter 2017.
    """
    step = jnp.asarray(step, jnp.float32)
    warm = (step + 1) / (schedule.warmup + 1)
    start = schedule.warmup if schedule.shape != "wsd" else max(schedule.warmup, round(steps * (1 - schedule.decay)))
    progress = jnp.clip((step - start) / max(1, steps - start), 0, 1)
    remaining = {
        "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
        "linear": 1 - progress,
        "wsd": 1 - progress,
        "constant": jnp.ones_like(progress),
    }[schedule.shape]
    return peak * jnp.minimum(warm, schedule.final + (1 - schedule.final) * remaining)
