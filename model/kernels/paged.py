"""Attention on TPU over keys and values that lie in pages, by JAX's Pallas kernel for rows of different lengths.

model/key_values.py calls it where it can run: it reads each row's own pages, where a gather would copy the longest
row's number of pages for every row. Its results are tested against the kernel's own reference.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from model.kernels.shard_map import shard_map_logical

LANES = 128  # of a vector register: a head's width is a multiple
BLOCK_SLOTS = 512  # keys that are fetched together, at most
BLOCK_QUERIES = 32


def can_run(kv_heads: int, widths: tuple[int, int], dtype: jnp.dtype) -> bool:
    """Whether the kernel can attend to keys and values of these two widths in this number format."""
    packed = 2 * kv_heads * jnp.dtype(dtype).itemsize / 4  # 4-byte words across the heads of keys and values
    is_tiled = packed in (1, 2, 4, 8) or packed % 8 == 0
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return is_float and is_tiled and widths[0] == widths[1] and widths[0] % LANES == 0


def attention(query_BNTH, pages_PCKH, length_B, pages_Bn, window: int | None, score_cap: float | None) -> jax.Array:
    """The context [B, N, T, H] of each row's newest T tokens, whose queries are scaled already.

    pages [P, C, 2 K, H]: keys of head k at 2 k, values at 2 k + 1. `length_B`: tokens of each row, the newest included.
    """
    arrays = (query_BNTH, pages_PCKH, length_B, pages_Bn)
    axes = ((None, "heads", None, None), (None, None, "kv_heads", None), (None,), (None, None))
    return shard_map_logical(functools.partial(device_attention, window, score_cap), axes, axes[0], *arrays)


def device_attention(window, score_cap, query_BNTH, pages_PCKH, length_B, pages_Bn) -> jax.Array:
    rows, heads, length, width = query_BNTH.shape
    query_QNH = jnp.swapaxes(query_BNTH, 1, 2).reshape(rows * length, heads, width)
    context_QNH = paged_library().ragged_paged_attention(
        query_QNH,
        pages_PCKH,
        length_B,
        pages_Bn,
        jnp.arange(rows + 1, dtype=jnp.int32) * length,  # where each row's queries begin and end
        jnp.array([rows], jnp.int32),
        sm_scale=1.0,
        sliding_window=window,
        soft_cap=score_cap,
        num_kv_pages_per_block=max(1, min(pages_Bn.shape[1], BLOCK_SLOTS // pages_PCKH.shape[1])),
        num_queries_per_block=BLOCK_QUERIES,  # JAX's own table of sizes asks the device that is here
    )
    return jnp.swapaxes(context_QNH.reshape(rows, length, heads, width), 1, 2)


def paged_library():
    """JAX's kernel: imported where it is used, since Pallas for TPU takes a while to import."""
    from jax.experimental.pallas.ops.tpu import ragged_paged_attention

    return ragged_paged_attention
