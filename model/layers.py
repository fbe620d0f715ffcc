"""Parameters, linear maps, norms, embedding and dropout: the parts of which the larger modules of model/ are built."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from model import config as c
from model.panels import PanelWeight
from model.quantized_weights import QuantizedWeight, decoding_weight
from model.sharding import flatten_axes, gather, partition_of, partition_spec, shard

Initializer = Callable[[jax.Array, tuple[int, ...], jax.sharding.PartitionSpec | None], jax.Array]


def normal(deviation: float) -> Initializer:
    """An initializer of normal numbers with this standard deviation, created sharded; of zeros if it is 0."""
    if deviation == 0:
        return constant(0.0)

    def init(key, shape, sharding):
        return deviation * jax.random.normal(key, shape, jnp.float32, out_sharding=sharding)

    return init


def constant(value: float) -> Initializer:
    return lambda key, shape, sharding: jnp.full(shape, value, jnp.float32, out_sharding=sharding)


class BalancingBias(nnx.Param):
    """A bias that is trained on load, not on the loss: its gradient is an excess of load, and every update takes a
    step of `rate` against the gradient's sign (train/optimizer.py)."""


def stacked_axes(axes: tuple[str, ...]) -> int:
    """The number of a parameter's leading axes that stack matrices (layers, experts)."""
    return next((i for i, axis in enumerate(axes) if axis not in ("layers", "experts")), len(axes))


class ParameterFactory:
    """Creates the parameters of a module tree; one call declares a parameter's logical axes, shape and initial value.

    All layers of a stack are declared together: `repeats` puts an axis L in front of every parameter's own axes.
    """

    def __init__(self, key: jax.Array, init: c.Init, repeats: int | None = None):
        self.key, self.init, self.repeats = key, init, repeats
        self.count = 0

    def for_stack(self, repeats: int) -> ParameterFactory:
        """A factory for the parameters of `repeats` layers at once, with random keys of its own."""
        self.count += 1
        return ParameterFactory(jax.random.fold_in(self.key, self.count), self.init, repeats)

    def __call__(
        self,
        axes: tuple[str, ...],
        shape: tuple[int, ...],
        init: Initializer,
        input_axes: int = 0,
        kind=nnx.Param,
        **overrides,
    ) -> nnx.Param:
        """Creates a float32 parameter of class `kind`. `input_axes`: how many axes its use as a matrix sums over, the
        first behind those that stack matrices; 0 for vectors. `overrides` replace entries of the metadata;
        `keep_float32`: it is used in float32, whatever the dtype of the rest."""
        self.count += 1
        if self.repeats is not None:
            axes, shape = ("layers", *axes), (self.repeats, *shape)
        value = init(jax.random.fold_in(self.key, self.count), shape, partition_spec(axes, shape, "storage"))
        metadata = {
            "axes": axes,
            "input_axes": input_axes,
            "matmul": "plain",
            "keep_float32": False,
        }
        return kind(value, **{**metadata, **overrides})

    def weight(
        self, axes: tuple[str, ...], shape: tuple[int, ...], input_axes: int = 1, keep_float32: bool = False
    ) -> nnx.Param:
        """A matrix that reads the residual stream. Its standard deviation is `init.weight`, or 1 / sqrt(fan in)."""
        deviation = self.init.weight
        if deviation is None:
            first = stacked_axes(axes)
            deviation = 1 / math.sqrt(math.prod(shape[first : first + input_axes]))
        return self(axes, shape, normal(deviation), input_axes, keep_float32=keep_float32)

    def residual(self, axes: tuple[str, ...], shape: tuple[int, ...], input_axes: int = 1) -> nnx.Param:
        """A matrix that writes into the residual stream. Its standard deviation is `init.residual`."""
        return self(axes, shape, normal(self.init.residual), input_axes)

    def balancing_bias(self, axes: tuple[str, ...], shape: tuple[int, ...], rate: float) -> BalancingBias:
        return self(axes, shape, constant(0.0), kind=BalancingBias, rate=rate)

    def zeros(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
        return self(axes, shape, constant(0.0))


def gather_parameters(
    module: nnx.Module, dtype: jnp.dtype, move: Callable = gather, matmul: str = "plain"
) -> nnx.Module:
    """Casts a module's parameters to `dtype` and reshards them from storage to compute, as its layer uses them.

    Matrices are cast before they move, so that half the bytes travel; vectors stay float32. `move` is `gather`, or
    `shard` where there will be no gradient. `matmul`: how `project` multiplies with them (config.Execution). Inside a
    scan over layers the axis L is gone: an array's axes are the last ones that its parameter names.
    """

    def cast_and_move(parameter: nnx.Param) -> nnx.Param:
        value = parameter[...]
        axes = parameter.axes[-value.ndim :]
        if not parameter.input_axes:
            return parameter.replace(shard(value, *axes))
        value = value if parameter.keep_float32 else value.astype(dtype)
        return parameter.replace(move(value, *axes), matmul="plain" if parameter.keep_float32 else matmul)

    return jax.tree.map(cast_and_move, module, is_leaf=lambda x: isinstance(x, nnx.Param))


def is_projection(parameter: nnx.Param) -> bool:
    """Whether a parameter is a weight of `project`: neither a vector, nor a stack of experts, nor their router."""
    return bool(parameter.input_axes) and "experts" not in parameter.axes and not parameter.keep_float32


def prepare_projections(module: nnx.Module, execution: c.Execution) -> nnx.Module:
    """A gathered module with each weight of `project` as a decoder reads it (quantized_weights.py, panels.py). Adapters
    stay as they are."""

    def prepare(part: nnx.Param | Adapter) -> nnx.Module:
        return decoding_weight(part, execution) if isinstance(part, nnx.Param) and is_projection(part) else part

    return jax.tree.map(prepare, module, is_leaf=lambda x: isinstance(x, nnx.Param | Adapter))


def einsum(formula: str, x: jax.Array, y: jax.Array, *axes: str | None) -> jax.Array:
    """A contraction of x and y, sharded by the result's logical axes; partial sums over sharded axes are added up."""
    inputs, out = formula.split("->")
    sizes = dict(zip(inputs.replace(",", ""), x.shape + y.shape, strict=True))
    # jnp.einsum contracts axes in alphabetical order, and XLA copies a weight whose own order differs: so rename them.
    order = dict.fromkeys(inputs.split(",")[1] + inputs)
    formula = formula.translate({ord(axis): chr(ord("a") + i) for i, axis in enumerate(order) if axis != ","})
    return jnp.einsum(formula, x, y, out_sharding=partition_spec(axes, tuple(sizes[axis] for axis in out), "compute"))


def project(
    formula: str, x: jax.Array, weight: nnx.Param | PanelWeight | QuantizedWeight | AdaptedWeight, *axes: str | None
) -> jax.Array:
    """`einsum` of x and a weight, in any form, in the weight's precision. It sums over the last axes of x."""
    if isinstance(weight, AdaptedWeight):
        return weight.project(formula, x, *axes)
    if isinstance(weight, QuantizedWeight):
        return einsum(formula, x, weight.unpacked(x.dtype), *axes)
    if weight.matmul != "plain":
        from model import quantized  # only here: qwix, and what it imports, takes more than a second

        value = weight.unpacked() if isinstance(weight, PanelWeight) else weight[...]
        return shard(quantized.project(x, value, weight.input_axes, weight.matmul), *axes)
    return weight.project(x, *axes) if isinstance(weight, PanelWeight) else einsum(formula, x, weight[...], *axes)


class Adapter(nnx.Module):
    """A low-rank change of a weight W of inputs I and outputs O: scale * down up, with down [.., I, R], up [.., R, O].
    model/lora.py makes them."""

    def __init__(self, down: nnx.Param, up: nnx.Param, scale: float):
        self.down, self.up, self.scale = down, up, scale

    def change(self, low: jax.Array, formula: str, *axes: str | None) -> jax.Array:
        """The change of a weight's result [.., O], from its inputs in the low dimension [.., R]."""
        return self.scale * project(formula, low, self.up.replace(matmul="plain"), *axes)


class AdaptedWeight(nnx.Module):
    """A weight with an adapter beside it: its results are x W + scale * (x down) up (Hu et al. 2021, eq. 3). It stands
    where the weight stood, for `project`, `embedding_lookup` and `gather_parameters`."""

    def __init__(self, base: nnx.Param, adapter: Adapter):
        self.base, self.adapter = base, adapter

    def project(self, formula: str, x: jax.Array, *axes: str | None) -> jax.Array:
        """`project` with the weight, then with the adapter. The adapter's own products are never in eight bits."""
        operands, out = formula.split("->")
        x_axes, weight_axes = operands.split(",")
        inputs = self.base.input_axes
        leading = x_axes[: x.ndim - inputs]
        down, down_formula = self.adapter.down.replace(matmul="plain"), f"{x_axes},{weight_axes[:inputs]}R->{leading}R"
        low = project(down_formula, x, down, *axes[: len(leading)], None)
        change = self.adapter.change(low, f"{leading}R,R{weight_axes[inputs:]}->{out}", *axes)
        return project(formula, x, self.base, *axes) + change

    def lookup(self, indices_BT: jax.Array, dtype: jnp.dtype, mode: str | None) -> jax.Array:
        """`embedding_lookup` in the weight, and in `down`."""
        low_BTR = embedding_lookup(self.adapter.down, indices_BT, dtype, mode)
        change_BTD = self.adapter.change(low_BTR, "BTR,RD->BTD", "batch", "time", None)
        return embedding_lookup(self.base, indices_BT, dtype, mode) + change_BTD


def add_bias(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """x + bias, in x's dtype; x if there is no bias. Added in float32, so that the bias's gradient is summed in it."""
    return x if bias is None else (x + bias[...]).astype(x.dtype)


def constrain_row_major(x: jax.Array) -> jax.Array:
    """x in row-major layout: the features of a token are neighbours in memory. A hint to the compiler.

    Left to itself, the compiler for TPUs makes a layer's outputs time-minor, like the gathered weights, and copies what
    was saved of them for the backward pass (1% of the Llama-2 7B step on v5p, by `skald plan`). The constraint is on
    each device's shard: for a constraint on the whole array the compiler would gather it."""

    def constrain(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    spec = jax.P(*partition_of(x))
    axes = set(flatten_axes(*spec))  # no others: the gradient of x would be summed over them
    shards = jax.shard_map(constrain, in_specs=spec, out_specs=spec, axis_names=axes, check_vma=False)
    return shards(x) if axes else constrain(x)


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in float32, or in its own dtype if that is wider: for what must not be computed in less."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Norm(nnx.Module):
    """Layer or root-mean-square norm over the last axes, of these names and sizes (config.Norm), in float32; returns
    x's dtype."""

    def __init__(self, config: c.Norm, declare: ParameterFactory, axes: tuple[str, ...], sizes: tuple[int, ...]):
        self.config = config
        self.axis_count = len(axes)
        self.scale = declare(axes, sizes, constant(1.0 - config.offset)) if config.scale else None
        self.bias = declare.zeros(axes, sizes) if config.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y, axes = at_least_float32(x), tuple(range(-self.axis_count, 0))
        if self.config.kind == "layer":
            y = y - y.mean(axes, keepdims=True)
        variance = jnp.square(y).mean(axes, keepdims=True)
        y = y * checkpoint_name(jax.lax.rsqrt(variance + self.config.epsilon), "norm")
        if self.scale is not None:
            y = y * (self.config.offset + self.scale[...])
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap * tanh(x / cap), in float32 at least (Bello et al. 2017, 5.2); x itself where there is no cap."""
    return x if cap is None else cap * jnp.tanh(at_least_float32(x) / cap)


class Embedding(nnx.Module):
    """The table of token vectors [V, D]; it is the output projection too if that is tied."""

    def __init__(self, vocab_size: int, width: int, declare: ParameterFactory):
        self.table = declare(("vocab", "width"), (vocab_size, width), normal(declare.init.embedding), input_axes=1)

    def __call__(self, tokens_BT: jax.Array, dtype: jnp.dtype, move: Callable = gather) -> jax.Array:
        """int [B, T] -> [B, T, D]."""
        return embedding_lookup(gather_parameters(self, dtype, move).table, tokens_BT, dtype)


def embedding_lookup(
    table: nnx.Param | AdaptedWeight, indices_BT: jax.Array, dtype: jnp.dtype, mode: str | None = None
) -> jax.Array:
    """Rows of a gathered table [A, D]: int [B, T] -> [B, T, D] in `dtype`.

    The table is read in float32 for its gradient: a row's gradient is a sum over all tokens that read the row, and a
    sum in bfloat16 stops growing after 256 equal terms.
    """
    if isinstance(table, AdaptedWeight):
        return table.lookup(indices_BT, dtype, mode)
    table_AD = at_least_float32(table[...])
    spec = partition_spec(("batch", "time", None), (*indices_BT.shape, table_AD.shape[1]), "compute")
    return table_AD.at[indices_BT].get(out_sharding=spec, mode=mode).astype(dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of x and scales the rest up; returns x if `key` is None (evaluation, decoding)."""
    if rate == 0 or key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape, out_sharding=jax.typeof(x).sharding)
    return jnp.where(keep, at_least_float32(x) / (1 - rate), 0).astype(x.dtype)  # 0.9 in bfloat16 is 0.8984
