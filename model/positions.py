"""Positions of tokens: learned and sinusoidal vectors added to embeddings, and rotary embeddings of query and key."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    frequency = rope.base ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    angle = positions_BT[..., None, None].astype(jnp.float32) * jnp.tile(frequency, 2)
    return jnp.sin(angle), jnp.cos(angle)


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
