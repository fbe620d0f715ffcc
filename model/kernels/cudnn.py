"""Attention on NVIDIA GPUs by cuDNN's flash attention, through jax.nn. Each device computes its own rows and
heads. model/kernels chooses it."""

from __future__ import annotations

import functools
from collections.abc import Callable

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
    """One device's context. Only the running program knows whether documents share its rows."""
    if segments_BT is None:
        return causal_attention(window, implementation, query_BNTH, key_BKSH, value_BKSH, None)
    return document_attention(window, implementation, query_BNTH, key_BKSH, value_BKSH, segments_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def document_attention(window: int | None, implementation: str, *arrays) -> jax.Array:
    """Attention within documents, of (query, key, value, segments): without a mask where each row is one document.

    cuDNN reads a mask [B, 1, T, S] as a bias, and always computes that bias's gradient, which nobody wants. It keeps
    its own residuals: neither forward pass leaves any but the arrays themselves.
    """
    return jax.lax.cond(
        is_one_document(arrays[3]),
        functools.partial(causal_attention, window, implementation),
        functools.partial(masked_attention, window, implementation),
        *arrays,
    )


def forward(window: int | None, implementation: str, *arrays):
    return document_attention(window, implementation, *arrays), arrays


def backward(window: int | None, implementation: str, arrays, gradient_BNTH):
    """Runs the forward pass again, on the same branch: kept residuals of both would be twice the memory."""
    *inputs, segments_BT = arrays

    def pull_back(attention: Callable) -> Callable:
        def gradients(gradient_BNTH, segments_BT, *inputs):
            context = functools.partial(attention, window, implementation)
            return jax.vjp(lambda *inputs: context(*inputs, segments_BT), *inputs)[1](gradient_BNTH)

        return gradients

    branches = pull_back(causal_attention), pull_back(masked_attention)
    return *jax.lax.cond(is_one_document(segments_BT), *branches, gradient_BNTH, segments_BT, *inputs), None


document_attention.defvjp(forward, backward)


def is_one_document(segments_BT: jax.Array) -> jax.Array:
    """Whether each row is one document, without padding behind it."""
    return jnp.all(segments_BT == segments_BT[:, :1])


def causal_attention(window: int | None, implementation: str, query_BNTH, key_BKSH, value_BKSH, _) -> jax.Array:
    """Attention to all tokens before, or to those of the window: cuDNN skips what these hide."""
    local_window_size = (window - 1, 0) if window else None
    return library_attention(implementation, query_BNTH, key_BKSH, value_BKSH, local_window_size=local_window_size)


def masked_attention(
    window: int | None, implementation: str, query_BNTH, key_BKSH, value_BKSH, segments_BT
) -> jax.Array:
    """Attention within documents. cuDNN takes no window beside a mask: it is part of the mask."""
    mask_B1TS = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
    if window:
        mask_B1TS &= ~np.tri(segments_BT.shape[1], k=-window, dtype=bool)
    return library_attention(implementation, query_BNTH, key_BKSH, value_BKSH, mask=mask_B1TS)


def library_attention(implementation: str, query_BNTH, key_BKSH, value_BKSH, **options) -> jax.Array:
    arrays_BTNH = (jnp.swapaxes(x, 1, 2) for x in (query_BNTH, key_BKSH, value_BKSH))
    context_BTNH = jax.nn.dot_product_attention(
        *arrays_BTNH, scale=1.0, is_causal=True, implementation=implementation, **options
    )
    return jnp.swapaxes(context_BTNH, 1, 2)
