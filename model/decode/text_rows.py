"""Batches in which several rows, side by side, write one text: axis B as N texts of R rows. draw.py and the strategies
that search use it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from model.sharding import partition_of, reshape


def split_texts(x: jax.Array, rows: int) -> jax.Array:
    """[B, …] -> [N, R, …]."""
    batch, *others = partition_of(x)
    return reshape(x, (x.shape[0] // rows, rows, *x.shape[1:]), (batch, None, *others))


def join_texts(x: jax.Array) -> jax.Array:
    """[N, R, …] -> [B, …]."""
    batch, _, *others = partition_of(x)
    return reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]), (batch, *others))


def place_in_text(x_B: jax.Array, rows: int) -> jax.Array:
    """int [B]: each row's place in its text, sharded as another array of one axis."""
    return join_texts(jnp.zeros_like(split_texts(x_B, rows), jnp.int32) + jnp.arange(rows))
