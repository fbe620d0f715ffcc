"""Attention on NVIDIA GPUs by cuDNN's flash attention, through jax.nn. Each device computes its own rows and
heads. model/kernels chooses it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from model.kernels.reference import AttentionMask
from model.kernels.shard_map import KEY, QUERY, SEGMENTS, dropout_refusal, shard_map_logical, split_refusal

MAX_WIDTH = 128  # features of a head that every supported GPU takes; in multiples of 8
DTYPES = ("bfloat16", "float16")


def refusal(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout, score_cap) -> str | None:
    """Why cuDNN cannot compute this, and what to set instead; None where it can."""
    _, _, length, head_width = query_BNTH.shape
    if query_BNTH.dtype not in DTYPES:
        return f"takes {' or '.join(DTYPES)}, not {query_BNTH.dtype}; set execution.dtype=bfloat16, or kernel=reference"
    if head_width % 8 or head_width > MAX_WIDTH:
        return f"takes head widths up to {MAX_WIDTH} that 8 divides, not {head_width}; set execution.kernel=reference"
    if length % 2:
        return f"takes even lengths, not {length}; set execution.kernel=reference"
    if score_cap is not None:
        return f"computes no score_cap={score_cap:g}; set execution.kernel=reference"
    if head_width != value_BKSH.shape[3]:
        widths = f"head_width={head_width} and value_width={value_BKSH.shape[3]}"
        return f"takes one width for keys and values, not {widths}; set execution.kernel=reference"
    return split_refusal() or dropout_refusal(weight_dropout)


def attention(
    query_BNTH,
    key_BKSH,
    value_BKSH,
    mask: AttentionMask,
    weight_dropout=(0.0, None),
    score_cap: float | None = None,
    implementation: str = "cudnn",
) -> jax.Array:
    """The reference's context; `refusal` rejects dropout and caps. `implementation` is that of
    jax.nn.dot_product_attention."""
    local_attention = functools.partial(device_attention, mask.window, implementation)
    return shard_map_logical(
        local_attention, (QUERY, KEY, KEY, SEGMENTS), QUERY, query_BNTH, key_BKSH, value_BKSH, mask.segments_BT
    )


def device_attention(
    window: int | None, implementation: str, query_BNTH, key_BKSH, value_BKSH, segments_BT
) -> jax.Array:
    """One device's context. Where documents share a row cuDNN has to read a mask [B, 1, T, S]; without a mask it skips
    what causality and the window hide."""
    length, mask = query_BNTH.shape[2], None
    if segments_BT is not None:
        seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-(window or length), dtype=bool)
        mask = seen & (segments_BT[:, None, :, None] == segments_BT[:, None, None, :])
    context_BTNH = jax.nn.dot_product_attention(
        *(jnp.swapaxes(x, 1, 2) for x in (query_BNTH, key_BKSH, value_BKSH)),
        mask=mask,
        scale=1.0,
        is_causal=mask is None,
        local_window_size=(window - 1, 0) if window and mask is None else None,
        implementation=implementation,
    )
    return jnp.swapaxes(context_BTNH, 1, 2)
