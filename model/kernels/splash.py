"""Attention on TPU by JAX's Pallas kernel Splash, with one fused backward pass. Each device computes its own rows and
heads. model/kernels chooses it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.kernels import pallas
from model.kernels.reference import AttentionMask
from model.kernels.shard_map import KEY, QUERY, SEGMENTS, dropout_refusal, shard_map_logical, split_refusal

LANES = 128  # of a vector register: the kernel's blocks are multiples
BLOCK_Q = 512  # queries, at most
BLOCK_KV = 1024  # keys, at most, forward: blocks that the causal mask hides are skipped whole
BLOCK_KV_DKV = 1024  # keys, backward, of 256 bytes a head: each block's part of the query gradient is written, summed


def refusal(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout, score_cap) -> str | None:
    """Why Splash cannot compute this, and what to set instead; None where it can."""
    length = query_BNTH.shape[2]
    if length % LANES:
        low, high = length - length % LANES, length + LANES - length % LANES
        return f"takes lengths that {LANES} divides, not {length}; {f'{low} and ' if low else ''}{high} are near"
    return split_refusal() or dropout_refusal(weight_dropout)


def attention(
    query_BNTH,
    key_BKSH,
    value_BKSH,
    mask: AttentionMask,
    weight_dropout=(0.0, None),
    score_cap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """The reference's context; `refusal` rejects dropout. `interpret` runs the kernel where there is no TPU.

    Context and logsumexp have the checkpoint name `context`, by which model/schedule.py decides what to save.
    """
    local_attention = functools.partial(device_attention, mask.window, score_cap, interpret)
    return shard_map_logical(
        local_attention, (QUERY, KEY, KEY, SEGMENTS), QUERY, query_BNTH, key_BKSH, value_BKSH, mask.segments_BT
    )


def device_attention(
    window: int | None, score_cap: float | None, interpret: bool, query_BNTH, key_BKSH, value_BKSH, segments_BT
) -> jax.Array:
    splash = splash_library()
    _, heads, length, head_width = query_BNTH.shape
    sizes = BlockSizes.of(length, max(head_width, value_BKSH.shape[3]), query_BNTH.dtype.itemsize)
    square = (length, length)
    is_local = window is not None and window < length
    mask = splash.LocalMask(square, (window - 1, 0), offset=0) if is_local else splash.CausalMask(square)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=sizes.queries,
            block_kv=sizes.keys,
            block_kv_compute=sizes.compute_keys,
            block_q_dkv=sizes.queries,
            block_kv_dkv=sizes.keys_backward,
            block_kv_dkv_compute=sizes.compute_keys,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="context",
        attn_logits_soft_cap=score_cap,
        interpret=interpret,
    )
    segments = None if segments_BT is None else splash.SegmentIds(segments_BT, segments_BT)
    return jax.vmap(kernel)(query_BNTH, key_BKSH, value_BKSH, segments)


class BlockSizes(NamedTuple):
    """Tokens in a block: of queries, and of keys forward and backward; `compute_keys` keys are multiplied at once."""

    queries: int
    keys: int
    keys_backward: int
    compute_keys: int

    @staticmethod
    def of(length: int, head_width: int, itemsize: int) -> BlockSizes:
        """For rows of `length` tokens, of heads whose keys and values are at most `head_width` wide."""
        # A block of keys and its gradients are in vector memory: wider heads leave room for fewer.
        limit = BLOCK_KV_DKV * 256 // (itemsize * max(LANES, head_width))
        queries, keys = largest_block(length, BLOCK_Q), largest_block(length, BLOCK_KV)
        keys_backward = largest_block(length, max(LANES, limit))
        compute_keys = math.gcd(largest_block(keys, BLOCK_Q), largest_block(keys_backward, BLOCK_Q))
        return BlockSizes(queries, keys, keys_backward, compute_keys)


@functools.cache
def splash_library():
    """JAX's Splash, patched to state the costs of its kernels."""
    from jax.experimental.pallas.ops.tpu import splash_attention  # takes half a second, which only a TPU run should pay
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    pallas.patch_pallas_call(splash_attention_kernel, pallas_call_with_cost)
    return splash_attention


def pallas_call_with_cost(pallas_call: Callable, kernel: Callable, *, name: str, **options) -> Callable:
    """A `pallas_call` that states the cost of Splash's kernel; without one the compiler plans as if it took no time."""
    from jax.experimental.pallas import CostEstimate  # as heavy as Splash, which is loaded already

    def call(*operands):
        estimate = CostEstimate(**cost(kernel.keywords, name, operands, jax.tree.leaves(options["out_shape"])))
        outputs = pallas_call(kernel, name=name, cost_estimate=estimate, **options)(*operands)
        return sum_query_gradients(*outputs) if is_backward(name) else outputs

    return call


def sum_query_gradients(*outputs: jax.Array) -> tuple:
    """The backward kernel's outputs with the query gradient summed over its parts [P, N, T, H], one for each block of
    keys. Splash would let XLA reduce them, for 66 ms more of the Llama-2 7B step on v5p (`skald plan`)."""
    *scratch, parts_PNTH, key_NTH, value_NTH = outputs
    query_NTH = functools.reduce(jnp.add, [part.astype(jnp.float32) for part in parts_PNTH])
    return *scratch, query_NTH[None].astype(parts_PNTH.dtype), key_NTH, value_NTH


def is_backward(name: str) -> bool:
    return "dkv" in name


def cost(options: Mapping, name: str, operands, outputs) -> dict[str, int]:
    """FLOPs, exponentials and bytes of a kernel for one row; `options` are those that Splash gives to its kernel.

    Of each pair of query and key forward makes a product as wide as a key and one as wide as a value; backward three
    and two."""
    arrays = [x for x in operands if x is not None and x.ndim == 3 and jnp.issubdtype(x.dtype, jnp.floating)]
    query_NTH, _, value_KSH = arrays[:3]
    heads, length, head_width = query_NTH.shape
    pairs = heads * multiplied_pairs(length, options["bq"], options["bkv"], options["mask_function"])
    bytes_accessed = sum(x.size * x.dtype.itemsize for x in (*operands, *outputs) if x is not None)
    width = 3 * head_width + 2 * value_KSH.shape[2] if is_backward(name) else head_width + value_KSH.shape[2]
    return {"flops": 2 * pairs * width, "transcendentals": pairs, "bytes_accessed": bytes_accessed}


def multiplied_pairs(length: int, queries: int, keys: int, sees: Callable) -> int:
    """Query-key pairs that are multiplied in blocks of these sizes: all those of every block in which any query sees a
    key, as `sees(query slots, key slots)` says. The first to be seen is the pair nearest to the diagonal."""
    query_starts, key_starts = np.arange(0, length, queries)[:, None], np.arange(0, length, keys)[None]
    nearest_query = np.clip(key_starts, query_starts, query_starts + queries - 1)
    nearest_key = np.clip(nearest_query, key_starts, key_starts + keys - 1)
    return int(np.sum(sees(nearest_query, nearest_key))) * queries * keys


def largest_block(length: int, limit: int) -> int:
    """The largest multiple of LANES up to `limit` that divides `length`."""
    return max(size for size in range(LANES, min(length, limit) + 1, LANES) if length % size == 0)
