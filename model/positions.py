"""Positions of tokens: learned and sinusoidal vectors added to embeddings, and rotary embeddings of query and key."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import config as c
from model.layers import ParameterFactory, embedding_lookup, gather_parameters, normal
from model.sharding import gather


class LearnedPositions(nnx.Module):
    """A table of `context` vectors (GPT-2)."""

    def __init__(self, context: int, width: int, declare: ParameterFactory):
        self.table = declare(("position", "width"), (context, width), normal(declare.init.embedding), input_axes=1)

    def __call__(self, positions_BT: jax.Array, dtype: jnp.dtype, move: Callable = gather) -> jax.Array:
        """int [B, T] -> [B, T, D]. Positions past the table read its last row: callers check lengths."""
        return embedding_lookup(gather_parameters(self, dtype, move).table, positions_BT, dtype, mode="clip")


def sinusoids(positions_BT: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
    """Vaswani et al. 2017, 3.5: feature 2i is sin(position / 10000^(2i/D)), feature 2i+1 its cosine. [B, T, D]."""
    frequency = 10_000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = positions_BT[..., None].astype(jnp.float32) * frequency
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return pairs.reshape(*positions_BT.shape, -1)[..., :width].astype(dtype)


def rotary_sin_cos(rope: c.Rope, positions_BT: jax.Array, head_width: int) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of every feature's angle, float32 [B, T, 1, H]; computed once and shared by all layers."""
    frequency, factor = rotary_frequencies(rope, head_width)
    angle = positions_BT[..., None, None].astype(jnp.float32) * np.tile(frequency, 2)
    return jnp.sin(angle) * factor, jnp.cos(angle) * factor


def rotary_frequencies(rope: c.Rope, head_width: int) -> tuple[np.ndarray, float]:
    """The angle of each feature pair from one position to the next, float32 [H / 2] radians, and the factor of all
    sines and cosines.

    Exponent, power and reciprocal are each rounded to float32, as where models are trained: at position 100,000 the
    last bit of a frequency is 0.006 radians.
    """
    exponent = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    frequency = 1 / (rope.base ** exponent.astype(np.float64)).astype(np.float32)
    factor = 1.0
    if rope.scaling is not None:
        frequency, factor = SCALINGS[type(rope.scaling)](rope.scaling, rope, head_width, frequency)
    return frequency.astype(np.float32), factor


def linear_scaling(scaling: c.LinearScaling, rope: c.Rope, head_width: int, frequency) -> tuple[np.ndarray, float]:
    return frequency / scaling.factor, 1.0


def llama3_scaling(scaling: c.Llama3Scaling, rope: c.Rope, head_width: int, frequency) -> tuple[np.ndarray, float]:
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_context / wavelength  # of a pair in the original context
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    return interpolate(frequency, scaling.factor, np.clip(kept, 0, 1)), 1.0


def yarn_scaling(scaling: c.YarnScaling, rope: c.Rope, head_width: int, frequency) -> tuple[np.ndarray, float]:
    def pair_with_turns(turns: float) -> float:
        return head_width * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    first, last = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    kept = 1 - (np.arange(len(frequency), dtype=np.float32) - first) / ((last - first) or 0.001)
    factor = scaling.attention_factor
    factor = 0.1 * math.log(max(scaling.factor, 1)) + 1 if factor is None else factor
    return interpolate(frequency, scaling.factor, np.clip(kept, 0, 1)), factor


def interpolate(frequency: np.ndarray, factor: float, kept: np.ndarray) -> np.ndarray:
    """Frequencies, of which a share `kept` stays and the rest is divided by `factor`; in float32, as they are."""
    return (1 - kept) * frequency / factor + kept * frequency


# Class of a rotary scaling -> a function of (scaling, rope, head width, frequencies) to frequencies and a factor.
SCALINGS = {c.LinearScaling: linear_scaling, c.Llama3Scaling: llama3_scaling, c.YarnScaling: yarn_scaling}


def apply_rotary(x_BTNH: jax.Array, sin_cos: tuple[jax.Array, jax.Array], scale: float = 1.0) -> jax.Array:
    """Rotates feature pairs (i, i + H/2) by the position's angle (Su et al. 2021, eq. 34; Llama's pairs), and scales x.

    A product with a matrix of 0 and ±1, exact in any dtype, puts each feature's partner in its place. Cutting heads in
    halves and joining them instead took 9% of the quick start's step on CPU.
    """
    sin, cos = sin_cos
    identity = jnp.eye(x_BTNH.shape[-1] // 2, dtype=x_BTNH.dtype)
    zeros = jnp.zeros_like(identity)
    partner_HH = jnp.block([[zeros, identity], [-identity, zeros]])
    precision = jax.lax.Precision.HIGHEST if x_BTNH.dtype == jnp.float32 else None  # else a TPU would round to bfloat16
    partner_BTNH = jnp.matmul(x_BTNH, partner_HH, precision=precision)
    return ((x_BTNH * cos + partner_BTNH * sin) * scale).astype(x_BTNH.dtype)
