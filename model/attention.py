"""Causal multi-head and grouped-query self-attention (Vaswani et al. 2017, 3.2; Ainslie et al. 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import cache
from model import config as c
from model.cache import KeyValues
from model.layers import Declare, Norm, biased, precise, project
from model.positions import rotate
from model.reading import Reading


class Attention(nnx.Module):
    """Weights query [D, N, H], key and value [D, K, H], output [N, H, D]."""

    def __init__(self, config: c.Attention, width: int, declare: Declare):
        self.config = config
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_width
        self.query = declare.weight(("width", "heads", "head_width"), (width, heads, size))
        self.key = declare.weight(("width", "kv_heads", "head_width"), (width, kv_heads, size))
        self.value = declare.weight(("width", "kv_heads", "head_width"), (width, kv_heads, size))
        self.output = declare.residual(("heads", "head_width", "width"), (heads, size, width), inputs=2)
        self.query_bias = declare.zeros(("heads", "head_width"), (heads, size)) if config.bias else None
        self.key_bias = declare.zeros(("kv_heads", "head_width"), (kv_heads, size)) if config.bias else None
        self.value_bias = declare.zeros(("kv_heads", "head_width"), (kv_heads, size)) if config.bias else None
        self.output_bias = declare.zeros(("features",), (width,)) if config.output_bias else None
        normed = config.query_key_norm
        self.query_norm = Norm(normed, declare, "head_width", size) if normed else None
        self.key_norm = Norm(normed, declare, "head_width", size) if normed else None

    def __call__(self, x_BTD: jax.Array, reading: Reading, memory: KeyValues | None):
        """[B, T, D] -> [B, T, D], and the memory with this call's keys and values in it (None stays None)."""
        query_BTNH = project("BTD,DNH->BTNH", x_BTD, self.query, "batch", "time", "heads", None)
        key_BTKH = project("BTD,DKH->BTKH", x_BTD, self.key, "batch", "time", "kv_heads", None)
        value_BTKH = project("BTD,DKH->BTKH", x_BTD, self.value, "batch", "time", "kv_heads", None)
        query_BTNH, key_BTKH = biased(query_BTNH, self.query_bias), biased(key_BTKH, self.key_bias)
        value_BTKH = biased(value_BTKH, self.value_bias)
        if self.query_norm is not None:
            query_BTNH, key_BTKH = self.query_norm(query_BTNH), self.key_norm(key_BTKH)
        if self.config.rope is not None:
            turn = reading.turn(self.config.rope, self.config.head_width)
            query_BTNH, key_BTKH = rotate(query_BTNH, turn, self.scale), rotate(key_BTKH, turn)
        else:
            query_BTNH = (precise(query_BTNH) * self.scale).astype(query_BTNH.dtype)
        query_BTNH = checkpoint_name(query_BTNH, "query")
        key_BTKH, value_BTKH = checkpoint_name(key_BTKH, "key"), checkpoint_name(value_BTKH, "value")
        # Kernels and memory want heads first: otherwise a batched matrix product copies what it reads.
        query_BNTH, key_BKSH, value_BKSH = (jnp.swapaxes(x, 1, 2) for x in (query_BTNH, key_BTKH, value_BTKH))
        if memory is not None:
            memory = KeyValues(
                cache.write(memory.key, key_BKSH, reading.start_B),
                cache.write(memory.value, value_BKSH, reading.start_B),
            )
            key_BKSH, value_BKSH = memory
        context_BNTH = reading.kernel(
            query_BNTH, key_BKSH, value_BKSH, reading.visible, (self.config.dropout, reading.key("weights"))
        )
        out_BTD = project("BTNH,NHD->BTD", jnp.swapaxes(context_BNTH, 1, 2), self.output, "batch", "time", None)
        return biased(out_BTD, self.output_bias), memory

    @property
    def scale(self) -> float:
        given = self.config.score_scale
        return self.config.head_width**-0.5 if given is None else given
