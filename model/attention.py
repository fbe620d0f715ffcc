"""Causal multi-head and grouped-query self-attention (Vaswani et al. 2017, 3.2; Ainslie et al. 2023): the mixer of a
block in model/transformer.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import config as c
from model.cache import PageLayout
from model.forward_pass import ForwardPass
from model.key_values import Attended, KeyValues, empty_key_values
from model.layers import Norm, ParameterFactory, add_bias, at_least_float32, project
from model.positions import apply_rotary


class Attention(nnx.Module):
    """Weights query [D, N, H], key [D, K, H], value [D, K, H], output [N, H, D]. The H of value and output may be one
    of its own (config.value_width)."""

    def __init__(self, config: c.Attention, width: int, declare: ParameterFactory):
        self.config = config
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_width
        value_size = config.value_width or size
        self.query = declare.weight(("width", "heads", "head_width"), (width, heads, size))
        self.key = declare.weight(("width", "kv_heads", "head_width"), (width, kv_heads, size))
        self.value = declare.weight(("width", "kv_heads", "head_width"), (width, kv_heads, value_size))
        self.output = declare.residual(("heads", "head_width", "width"), (heads, value_size, width), input_axes=2)
        self.query_bias = declare.zeros(("heads", "head_width"), (heads, size)) if config.bias else None
        self.key_bias = declare.zeros(("kv_heads", "head_width"), (kv_heads, size)) if config.bias else None
        self.value_bias = declare.zeros(("kv_heads", "head_width"), (kv_heads, value_size)) if config.bias else None
        self.output_bias = declare.zeros(("features",), (width,)) if config.output_bias else None
        first = 0 if config.query_key_norm_over == "heads" else 1  # of the axes that the norms are over
        query_norm_axes = (("heads", "head_width")[first:], (heads, size)[first:])
        key_norm_axes = (("kv_heads", "head_width")[first:], (kv_heads, size)[first:])
        norm = config.query_key_norm
        self.query_norm = Norm(norm, declare, *query_norm_axes) if norm else None
        self.key_norm = Norm(norm, declare, *key_norm_axes) if norm else None

    def __call__(self, x_BTD: jax.Array, forward_pass: ForwardPass, kv_cache: KeyValues | None):
        """[B, T, D] -> [B, T, D], and the cache with these tokens' keys and values added (None stays None)."""
        query_BTNH = project("BTD,DNH->BTNH", x_BTD, self.query, "batch", "time", "heads", None)
        key_BTKH = project("BTD,DKH->BTKH", x_BTD, self.key, "batch", "time", "kv_heads", None)
        value_BTKH = project("BTD,DKH->BTKH", x_BTD, self.value, "batch", "time", "kv_heads", None)
        query_BTNH, key_BTKH = add_bias(query_BTNH, self.query_bias), add_bias(key_BTKH, self.key_bias)
        value_BTKH = add_bias(value_BTKH, self.value_bias)
        if self.query_norm is not None:
            query_BTNH, key_BTKH = self.query_norm(query_BTNH), self.key_norm(key_BTKH)
        if self.config.rope is not None:
            sin_cos = forward_pass.rotary(self.config.rope, self.config.head_width)
            query_BTNH, key_BTKH = apply_rotary(query_BTNH, sin_cos, self.scale), apply_rotary(key_BTKH, sin_cos)
        else:
            query_BTNH = (at_least_float32(query_BTNH) * self.scale).astype(query_BTNH.dtype)
        query_BTNH = checkpoint_name(query_BTNH, "query")
        key_BTKH, value_BTKH = checkpoint_name(key_BTKH, "key"), checkpoint_name(value_BTKH, "value")
        # Kernels and cache have heads first: otherwise a batched matrix product copies what it reads.
        query_BNTH, key_BKSH, value_BKSH = (jnp.swapaxes(x, 1, 2) for x in (query_BTNH, key_BTKH, value_BTKH))
        seen = Attended(key_BKSH, value_BKSH, dataclasses.replace(forward_pass.mask, window=self.config.window))
        if kv_cache is not None:
            kv_cache, seen = kv_cache.append(key_BKSH, value_BKSH, forward_pass.slots, seen.mask)
        weight_dropout = (self.config.dropout, forward_pass.dropout_key("weights"))
        context_BNTH = seen.attend(forward_pass.kernel, query_BNTH, weight_dropout, self.config.score_cap)
        out_BTD = project("BTNH,NHD->BTD", jnp.swapaxes(context_BNTH, 1, 2), self.output, "batch", "time", None)
        return add_bias(out_BTD, self.output_bias), kv_cache

    def memory(self, rows: int, slots: int, dtype: jnp.dtype, pages: PageLayout | None = None) -> KeyValues:
        """The empty keys and values of `rows` sequences of at most `slots` tokens; with `pages`, those of all pages."""
        widths = (self.config.head_width, self.config.value_width or self.config.head_width)
        return empty_key_values(rows, slots, self.config.kv_heads, widths, dtype, self.config.window, pages)

    @property
    def scale(self) -> float:
        scale = self.config.score_scale
        return self.config.head_width**-0.5 if scale is None else scale
