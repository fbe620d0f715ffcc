"""The model: blocks, stacks of layers, logits. Training calls `hidden` and `logits`, the decoder calls the model.

model/kernels chooses the program that computes attention, model/schedule.py the order in which layers run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import config as c
from model import kernels, schedule
from model.attention import Attention
from model.cache import Cache, FilledSlots, LayerCache, PageLayout, close_rows, last_input, lies_in_pages, open_rows
from model.forward_pass import ForwardPass, ResidualStream
from model.layers import (
    Embedding,
    Norm,
    ParameterFactory,
    at_least_float32,
    constrain_row_major,
    dropout,
    gather_parameters,
    prepare_projections,
    project,
    soft_cap,
)
from model.mlp import MLP
from model.moe import MoE
from model.positions import LearnedPositions, rotary_sin_cos, sinusoids
from model.recurrent import LSTM
from model.sharding import gather, partition_spec, shard, shift_right, time_order

# Class of a part of a block's config -> class of its module. A mixer is called with (x_BTD, forward_pass, memory) and
# returns the branch and the memory with these tokens added; `memory(rows, slots, dtype)` is an empty one.
MIXERS = {c.Attention: Attention, c.LSTM: LSTM}
FEED_FORWARDS = {c.MLP: MLP, c.MoE: MoE}


class Block(nnx.Module):
    """One layer (config.Block): mixer and feed-forward, each of them a branch of the residual stream, or all of it."""

    def __init__(self, config: c.Block, width: int, declare: ParameterFactory):
        self.config = config

        def norm(enabled: bool) -> Norm | None:
            return Norm(config.norm, declare, ("features",), (width,)) if enabled else None

        pre, post = config.placement in ("pre", "sandwich"), config.placement not in ("pre", "plain")
        self.mixer_norm, self.mixer_post_norm = norm(pre), norm(post)
        self.mixer = MIXERS[type(config.mixer)](config.mixer, width, declare)
        second = config.feed_forward
        self.feed_forward_norm, self.feed_forward_post_norm = norm(pre and bool(second)), norm(post and bool(second))
        self.feed_forward = FEED_FORWARDS[type(second)](second, width, declare) if second else None

    def __call__(self, stream: ResidualStream, forward_pass: ForwardPass, cache: LayerCache | None = None):
        """The residual stream after this layer, and the layer's cache with these tokens added (None stays None)."""
        cache = cache or LayerCache(None)
        x_BTD, auxiliary_loss_B = stream
        input_BTD = x_BTD if self.mixer_norm is None else self.mixer_norm(x_BTD)
        input_BTD, mixer_input = self.shift_tokens(input_BTD, forward_pass, cache.mixer_input)
        branch_BTD, memory = self.mixer(input_BTD, forward_pass, cache.mixer)
        x_BTD = self.add_branch(x_BTD, branch_BTD, self.mixer_post_norm, forward_pass.dropout_key("mixer"))
        if self.feed_forward is None:
            return ResidualStream(x_BTD, auxiliary_loss_B), None if memory is None else LayerCache(memory, mixer_input)
        x_BTD = checkpoint_name(x_BTD, "middle")
        input_BTD = x_BTD if self.feed_forward_norm is None else self.feed_forward_norm(x_BTD)
        input_BTD, feed_forward_input = self.shift_tokens(input_BTD, forward_pass, cache.feed_forward_input)
        branch_BTD, branch_loss_B = self.feed_forward(input_BTD, forward_pass)
        x_BTD = self.add_branch(
            x_BTD, branch_BTD, self.feed_forward_post_norm, forward_pass.dropout_key("feed_forward")
        )
        new_cache = None if memory is None else LayerCache(memory, mixer_input, feed_forward_input)
        return ResidualStream(x_BTD, auxiliary_loss_B + branch_loss_B), new_cache

    def empty_cache(self, rows: int, slots: int, width: int, dtypes, pages: PageLayout | None) -> LayerCache:
        """The layer's cache before the first token of `rows` sequences of at most `slots` tokens, or of `pages`.

        `dtypes`: of activations, and of what the mixer remembers.
        """
        dtype, memory_dtype = dtypes

        def empty_input(branch) -> jax.Array | None:
            zeros_B1D = jnp.zeros((rows, 1, width), dtype)
            return shard(zeros_B1D, "batch", None, None) if self.config.token_shift and branch is not None else None

        memory = self.mixer.memory(rows, slots, memory_dtype, pages)
        return LayerCache(memory, empty_input(self.mixer), empty_input(self.feed_forward))

    def add_branch(self, x_BTD, branch_BTD, post_norm: Norm | None, key):
        """Adds a branch's output to the residual stream, with norms as in the block's placement (config.Block)."""
        branch_BTD = dropout(constrain_row_major(branch_BTD), self.config.dropout, key)
        if self.config.placement == "plain":
            return branch_BTD
        if self.config.placement == "post_residual":
            return post_norm(x_BTD + branch_BTD)
        return x_BTD + (branch_BTD if post_norm is None else post_norm(branch_BTD))

    def shift_tokens(self, x_BTD, forward_pass: ForwardPass, previous_B1D):
        """x with its first features, a share of `token_shift`, replaced by those of the token before in the document.

        Also returns the last token's x [B, 1, D], for the cache; None without a cache or without a shift."""
        features = round(self.config.token_shift * x_BTD.shape[-1])
        if not features:
            return x_BTD, None
        last_B1D = None if previous_B1D is None else last_input(x_BTD, previous_B1D, forward_pass.slots.count_B)
        previous_BTD = shift_right(x_BTD, previous_B1D)
        previous_BTD = jnp.where(forward_pass.is_document_start(), 0, previous_BTD)
        mixed_BTD = jnp.concatenate([previous_BTD[..., :features], x_BTD[..., features:]], axis=-1)
        return mixed_BTD, last_B1D


class Stack(nnx.Module):
    """A pattern of blocks, repeated `repeats` times; every parameter has an axis L of that size in front."""

    def __init__(self, config: c.Stack, width: int, declare: ParameterFactory):
        self.config = config
        self.pattern = nnx.List([Block(block, width, declare.for_stack(config.repeats)) for block in config.pattern])

    def layer(self, repeat: int, index: int) -> Block:
        """The block at `index` of the pattern in one repeat: its parameters without the axis L."""
        return jax.tree.map(lambda x: x[repeat], self.pattern[index])

    def __call__(
        self, stream: ResidualStream, forward_pass: ForwardPass, key, execution: c.Execution
    ) -> ResidualStream:
        """Runs all layers. With a `key` dropout is on."""
        dtype = jnp.dtype(execution.dtype)

        def run_pattern(stream, forward_pass, blocks, key):
            for index, block in enumerate(blocks):
                layer_key = None if key is None else jax.random.fold_in(key, index)
                block = gather_parameters(block, dtype, matmul=execution.matmul)
                stream, _ = block(stream, forward_pass.for_layer(layer_key))
            return stream

        keys = None if key is None else jax.random.split(key, self.config.repeats)
        return schedule.run_layers(run_pattern, stream, forward_pass, self.pattern, keys, execution)


class Transformer(nnx.Module):
    """A language model (config.Model). Build it under jit, so that its parameters are created sharded."""

    def __init__(self, config: c.Model, key: jax.Array, execution: c.Execution | None = None):
        self.config, self.execution = config, execution or c.Execution()
        declare = ParameterFactory(key, config.init)
        self.embedding = Embedding(config.vocab_size, config.width, declare)
        learned = isinstance(config.positions, c.Learned)
        self.positions = LearnedPositions(config.context, config.width, declare) if learned else None
        first, final = config.embedding_norm, config.final_norm
        self.embedding_norm = Norm(first, declare, ("features",), (config.width,)) if first else None
        self.stacks = nnx.List([Stack(stack, config.width, declare) for stack in config.layers])
        self.final_norm = Norm(final, declare, ("features",), (config.width,)) if final else None
        shape = (config.width, config.vocab_size)
        self.output = None if config.tied else declare.weight(("width", "vocab"), shape)

    def hidden(self, tokens_BT, segments_BT=None, positions_BT=None, key=None) -> jax.Array:
        """int [B, T] -> the last hidden states [B, T, D] (see `residual_stream`)."""
        return self.residual_stream(tokens_BT, segments_BT, positions_BT, key).x_BTD

    def residual_stream(self, tokens_BT, segments_BT=None, positions_BT=None, key=None) -> ResidualStream:
        """Runs all layers: int [B, T] -> the last hidden states [B, T, D], and the layers' auxiliary losses [B].

        Tokens see only tokens of their own segment in `segments_BT` (None: one document a row). The time axis of all
        arrays is in sharding.time_order. With a `key` dropout is on.
        """
        slots_T = jnp.asarray(time_order(tokens_BT.shape[1]), jnp.int32)
        slots_BT = shard(jnp.broadcast_to(slots_T, tokens_BT.shape), "batch", "time")
        mask = kernels.AttentionMask(slots_BT, segments_BT)
        kernel = kernels.attention_kernel(self.execution.kernel)
        forward_pass = self.forward_pass(slots_BT if positions_BT is None else positions_BT, mask, kernel)
        keys = [None] * (len(self.stacks) + 1) if key is None else list(jax.random.split(key, len(self.stacks) + 1))
        auxiliary_loss_B = shard(jnp.zeros(tokens_BT.shape[0]), "batch")
        stream = ResidualStream(self.embed(tokens_BT, forward_pass, keys[0]), auxiliary_loss_B)
        for stack, stack_key in zip(self.stacks, keys[1:], strict=True):
            stream = stack(stream, forward_pass, stack_key, self.execution)
        return stream._replace(x_BTD=self.normalize_output(stream.x_BTD))

    def logits(self, hidden_BTD, move: Callable = gather):
        """[B, T, D] -> logits [B, T, V]."""
        return self.output_projection(hidden_BTD.dtype, move)(hidden_BTD)

    def output_projection(self, dtype: jnp.dtype, move: Callable = gather) -> Callable:
        """A function from hidden states to logits. The weight is gathered once, for several calls; its gradients of all
        calls are added up in float32."""
        formula = "BTD,VD->BTV" if self.output is None else "BTD,DV->BTV"
        weight = gather_parameters(self.embedding.table if self.output is None else self.output, dtype, move)

        def cast(weight: nnx.Module, convert: Callable) -> nnx.Module:
            def cast_one(parameter: nnx.Param) -> nnx.Param:
                return parameter if parameter.keep_float32 else parameter.replace(convert(parameter[...]))

            return jax.tree.map(cast_one, weight, is_leaf=lambda x: isinstance(x, nnx.Param))

        weight_float32 = cast(weight, at_least_float32)

        def logits(hidden_BTD):
            weight = cast(weight_float32, lambda x: x.astype(dtype))
            logits_BTV = project(formula, hidden_BTD, weight, "batch", "time", "vocab") * self.config.logit_scale
            return soft_cap(logits_BTV, self.config.logit_cap)

        return logits

    def __call__(self, tokens_BT, cache: Cache, count_B=None):
        """Logits [B, T, V] of each token's successor, and the cache with the tokens added (decode/sources.py).

        Each row continues where its cache ends. Rows are padded on the right; `count_B` tokens are real, default all.
        """
        logits_BTV, _, cache = self.with_hidden(tokens_BT, cache, count_B)
        return logits_BTV, cache

    def with_hidden(self, tokens_BT, cache: Cache, count_B=None):
        """What a call gives, with the last hidden states [B, T, D] in between: (logits, hidden states, cache)."""
        count_B = jnp.full_like(cache.length_B, tokens_BT.shape[1]) if count_B is None else count_B
        start_B, count_B = shard(cache.length_B, "batch"), shard(count_B, "batch")
        slots = FilledSlots(start_B, count_B, cache.pages_Bn)
        slots_BT = start_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
        kernel = kernels.decoding_kernel(self.execution.kernel)
        forward_pass = self.forward_pass(slots_BT, kernels.AttentionMask(slots_BT), kernel, slots)
        stream = ResidualStream(self.embed(tokens_BT, forward_pass, None, shard), 0.0)
        layer_caches, dtype = [], jnp.dtype(self.execution.dtype)
        for stack in self.stacks:
            for repeat in range(stack.config.repeats):
                for index in range(len(stack.pattern)):
                    block = gather_parameters(stack.layer(repeat, index), dtype, shard, self.execution.matmul)
                    stream, layer_cache = block(stream, forward_pass, cache.layers[len(layer_caches)])
                    layer_caches.append(layer_cache)
        cache = cache._replace(length_B=start_B + count_B, layers=tuple(layer_caches))
        hidden_BTD = self.normalize_output(stream.x_BTD)
        return self.logits(hidden_BTD, shard), hidden_BTD, cache

    @property
    def width(self) -> int:
        """Features of the last hidden states."""
        return self.config.width

    def init_cache(self, rows: int, slots: int) -> Cache:
        """An empty cache for `rows` sequences of at most `slots` tokens."""
        return Cache(shard(jnp.zeros(rows, jnp.int32), "batch"), self.empty_layers(rows, slots))

    def init_pages(self, rows: int, pages: PageLayout) -> tuple[LayerCache, ...]:
        """An empty paged memory (cache.py) of so many pages, and of `rows` rows of what does not lie in pages."""
        return self.empty_layers(rows, self.config.context, pages)

    open_rows, close_rows = staticmethod(open_rows), staticmethod(close_rows)
    lies_in_pages = staticmethod(lies_in_pages)

    def empty_layers(self, rows: int, slots: int, pages: PageLayout | None = None) -> tuple[LayerCache, ...]:
        dtype = jnp.dtype(self.execution.dtype)
        dtypes = (dtype, jnp.dtype("int8") if self.execution.cache == "int8" else dtype)
        return tuple(
            block.empty_cache(rows, slots, self.config.width, dtypes, pages)
            for stack in self.stacks
            for _ in range(stack.config.repeats)
            for block in stack.pattern
        )

    def forward_pass(self, positions_BT, mask, kernel, slots=None) -> ForwardPass:
        mixers = [block.mixer for stack in self.config.layers for block in stack.pattern]
        attentions = [mixer for mixer in mixers if isinstance(mixer, c.Attention)]
        ropes = tuple(dict.fromkeys((mixer.rope, mixer.head_width) for mixer in attentions if mixer.rope))
        sin_cos = tuple(rotary_sin_cos(rope, positions_BT, size) for rope, size in ropes)
        return ForwardPass(positions_BT, mask, sin_cos, kernel, ropes, slots)

    def embed(self, tokens_BT, forward_pass: ForwardPass, key, move: Callable = gather):
        """Embeds tokens: int [B, T] -> [B, T, D], with the positions, norm and dropout of the config."""
        dtype = jnp.dtype(self.execution.dtype)
        x_BTD = self.embedding(tokens_BT, dtype, move) * self.config.embedding_scale
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(forward_pass.positions_BT, dtype, move)
        elif isinstance(self.config.positions, c.Sinusoidal):
            x_BTD = x_BTD + sinusoids(forward_pass.positions_BT, self.config.width, dtype)
        if self.embedding_norm is not None:
            x_BTD = gather_parameters(self.embedding_norm, dtype)(x_BTD)
        return dropout(x_BTD, self.config.dropout, key)

    def normalize_output(self, x_BTD):
        return x_BTD if self.final_norm is None else gather_parameters(self.final_norm, x_BTD.dtype)(x_BTD)

    def to_storage(self) -> Transformer:
        """The same model with its parameters resharded to their storage sharding on the current mesh."""
        mesh = jax.sharding.get_mesh()

        def move(x: nnx.Param) -> nnx.Param:
            spec = partition_spec(x.axes, x[...].shape, "storage")
            return x.replace(jax.device_put(x[...], jax.sharding.NamedSharding(mesh, spec)))

        return jax.tree.map(move, self, is_leaf=lambda x: isinstance(x, nnx.Param))

    def unstack_layers(self) -> Transformer:
        """The same model with every layer's parameters in arrays of their own. The axis L stays, with size 1."""
        blocks = [
            jax.tree.map(lambda x, i=repeat: x[i : i + 1], block)
            for stack in self.stacks
            for repeat in range(stack.config.repeats)
            for block in stack.pattern
        ]
        model, stack = (jax.tree.map(lambda x: x, module) for module in (self, self.stacks[0]))
        stack.config = c.Stack(c.blocks(self.config), 1)
        stack.pattern = nnx.List(blocks)
        model.config = dataclasses.replace(self.config, layers=(stack.config,))
        model.stacks = nnx.List([stack])
        return model

    def for_decoding(self) -> Transformer:
        """The same model with its weights as a decoding step reads them, once a token: cast, in the compute sharding,
        each layer's in arrays of their own (a slice of a stacked array would be a copy), and in few bits or in panels
        if `execution` says so. The embedding table of a tied model is there twice then: to look up, and for logits."""
        execution = self.execution
        model = gather_parameters(self, jnp.dtype(execution.dtype), shard).unstack_layers()
        if execution.quantize != "none" or (execution.panels and jax.sharding.get_abstract_mesh().empty):
            model.stacks = prepare_projections(model.stacks, execution)
            model.output = nnx.data(prepare_projections(model.output_weight(), execution))
        return model

    def output_weight(self) -> nnx.Param:
        """The weight [D, V] of the output; of a tied model the embedding table, transposed."""
        table = self.embedding.table
        return table.replace(table[...].T, axes=table.axes[::-1]) if self.output is None else self.output


def abstract_model(config: c.Model, execution: c.Execution | None = None) -> Transformer:
    """A model of shapes and dtypes only; nothing is computed."""
    return jax.eval_shape(lambda: Transformer(config, jax.random.key(0), execution))
