"""Attention on TPU by JAX's Pallas kernel Splash, with one fused backward pass; each device for its rows and heads."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from model.kernels.local import KEY, QUERY, SEGMENTS, dropout_refusal, on_each_device, split_refusal
from model.kernels.reference import Visible

LANES = 128  # of a vector register: the kernel's blocks are multiples
QUERIES = 512  # of a block, at most
KEYS = 4096  # of a block, at most, for 256 bytes a head: with one block for a row nothing is summed between blocks


def refusal(query_BNTH, key_BKSH, visible: Visible, drop) -> str | None:
    """Why Splash cannot compute this, and what to set instead; None where it can."""
    length = query_BNTH.shape[2]
    if length % LANES:
        low, high = length - length % LANES, length + LANES - length % LANES
        return f"takes lengths that {LANES} divides, not {length}; {f'{low} and ' if low else ''}{high} are near"
    return split_refusal() or dropout_refusal(drop)


def attention(
    query_BNTH, key_BKSH, value_BKSH, visible: Visible, scale: float, drop=(0.0, None), interpret: bool = False
) -> jax.Array:
    """The reference's context; `drop` is refused above. `interpret` runs the kernel where there is no TPU.

    Context and logsumexp bear the name `context` for what decides what to keep (model/schedule.py).
    """
    query_BNTH = (query_BNTH.astype(jnp.float32) * scale).astype(query_BNTH.dtype)  # Splash does not
    here = functools.partial(on_one_device, interpret)
    return on_each_device(
        here, (QUERY, KEY, KEY, SEGMENTS), QUERY, query_BNTH, key_BKSH, value_BKSH, visible.segments_BT
    )


def on_one_device(interpret: bool, query_BNTH, key_BKSH, value_BKSH, segments_BT) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # half a second that only a TPU should cost

    _, heads, length, head_width = query_BNTH.shape
    # A block of keys and its gradients lie in vector memory: wider heads leave room for fewer.
    bytes_a_head = query_BNTH.dtype.itemsize * max(LANES, head_width)
    queries, keys = divisor(length, QUERIES), divisor(length, max(LANES, KEYS * 256 // bytes_a_head))
    at_once = divisor(keys, QUERIES)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([splash.CausalMask((length, length))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=queries,
            block_kv=keys,
            block_kv_compute=at_once,
            block_q_dkv=queries,
            block_kv_dkv=keys,
            block_kv_dkv_compute=at_once,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="context",
        interpret=interpret,
    )
    segments = None if segments_BT is None else splash.SegmentIds(segments_BT, segments_BT)
    return jax.vmap(kernel)(query_BNTH, key_BKSH, value_BKSH, segments)


def divisor(length: int, limit: int) -> int:
    """The largest multiple of LANES up to `limit` that divides `length`."""
    return max(size for size in range(LANES, min(length, limit) + 1, LANES) if length % size == 0)
