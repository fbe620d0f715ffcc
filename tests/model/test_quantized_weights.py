"""A decoder's weights in few bits, against their definition in NumPy and against models of rounded float32 weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import config as c
from model.decode.chain import parse_chain
from model.decode.generate import Generator
from model.panels import PanelWeight
from model.quantized_weights import QuantizedWeight
from model.sharding import make_mesh
from model.transformer import Transformer

GREATEST = {"int8": 127, "int4": 7}
MLP_BLOCK = c.Block(c.Attention(4, 2, 24, rope=c.Rope()), c.MLP(200, gated=True))
LSTM_BLOCK = c.Block(c.LSTM(), None, placement="plain")
VOCABULARY, CONTEXT = 70, 48


def declared(value, axes, input_axes: int) -> nnx.Param:
    metadata = {"axes": axes, "input_axes": input_axes, "matmul": "plain", "keep_float32": False}
    return nnx.Param(jnp.asarray(value, jnp.float32), **metadata)


def rounded(value: np.ndarray, axis: int, group: int, greatest: int) -> np.ndarray:
    """The weight rounded in float64, with a scale for each `group` along this axis."""
    parts = np.split(np.asarray(value, np.float64), value.shape[axis] // group, axis)
    scales = [np.abs(part).max(axis, keepdims=True) / greatest for part in parts]
    quotients = [part / np.where(scale == 0, 1, scale) for part, scale in zip(parts, scales, strict=True)]
    return np.concatenate([np.rint(q) * scale for q, scale in zip(quotients, scales, strict=True)], axis)


WEIGHTS = {  # shape, logical axes, input axes, the axis of groups, the largest group of 4 bits
    "one matrix": ((96, 70), ("width", "vocab"), 1, 0, 48),
    "a layer's heads": ((1, 128, 3, 20), ("layers", "width", "heads", "head_width"), 1, 1, 64),
    "several input axes": ((2, 3, 80, 32), ("layers", "heads", "head_width", "width"), 2, 2, 40),
    "a prime axis": ((67, 5), ("width", "hidden"), 1, 0, 1),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("quantize", GREATEST)
def test_a_weight_is_rounded_as_defined(name, quantize):
    shape, axes, inputs, axis, group = WEIGHTS[name]
    value = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    value[..., 0] = 0  # an output without weights
    found = QuantizedWeight(declared(value, axes, inputs), quantize)
    expected = rounded(value, axis, shape[axis] if quantize == "int8" else group, GREATEST[quantize])
    step = np.abs(value).max() / GREATEST[quantize]
    difference = np.abs(np.asarray(found.unpacked(jnp.float32)) - expected)
    # Float32 divides otherwise than float64, so that what lies in the middle of two numbers may go to either.
    assert (difference > 1e-5 * step).mean() < 1e-3 and difference.max() <= 1.001 * step
    assert found.values[...].dtype == quantize and found.values[...].shape == shape


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("inputs, outputs", [(80, 64), (33, 70), (128, 1000)])
def test_panels_of_integers_multiply_exactly(rows, inputs, outputs):
    random = np.random.default_rng(rows)
    weight, x = random.standard_normal((inputs, outputs)), random.standard_normal((rows, inputs))
    x[0] = 0
    panels = PanelWeight(declared(weight, ("width", "vocab"), 1), in_int8=True)
    found = np.asarray(panels.project(jnp.asarray(x, jnp.float32), None, None))
    expected = rounded(x, 1, inputs, 127) @ rounded(weight, 0, inputs, 127)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(x).max() * np.abs(weight).max())
    np.testing.assert_allclose(panels.unpacked(), rounded(weight, 0, inputs, 127), atol=1e-5)


def model_of(block: c.Block, tied: bool, quantize: str = "none", panels: bool = False) -> Transformer:
    config = c.Model(VOCABULARY, 96, CONTEXT, (c.Stack((block,), 1),), tied=tied, init=c.Init(residual=0.1))
    execution = c.Execution(quantize=quantize, panels=panels)
    return jax.jit(lambda: Transformer(config, jax.random.key(1), execution))()


def logits_of(model: Transformer) -> np.ndarray:
    """Of a decoder that reads a row in two pieces."""
    decoder = jax.jit(Transformer.for_decoding)(model)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, (2, 12))
    read = jax.jit(lambda model, tokens, cache: model(tokens, cache))
    first, cache = read(decoder, tokens[:, :7], decoder.init_cache(2, CONTEXT))
    second, _ = read(decoder, tokens[:, 7:], cache)
    return np.concatenate([first, second], axis=1)


@pytest.mark.parametrize(
    "block, quantize, tied",
    [(MLP_BLOCK, "int8", True), (MLP_BLOCK, "int4", False), (LSTM_BLOCK, "int4", True)],
    ids=["attention-int8", "attention-int4", "lstm-int4"],
)
def test_a_decoder_is_the_model_with_rounded_weights(block, quantize, tied):
    model = model_of(block, tied, quantize)
    plain = model_of(block, tied)

    def rounded_like(weight: nnx.Param) -> nnx.Param:
        inside = weight.axes[0] == "layers" and weight.input_axes
        return weight.replace(QuantizedWeight(weight, quantize).unpacked(jnp.float32)) if inside else weight

    plain.stacks = jax.tree.map(rounded_like, plain.stacks, is_leaf=lambda x: isinstance(x, nnx.Param))
    plain.output = nnx.data(QuantizedWeight(plain.output_weight(), quantize))
    plain.output = nnx.data(model.output_weight().replace(plain.output.unpacked(jnp.float32)))
    found, expected, as_it_was = logits_of(model), logits_of(plain), logits_of(model_of(block, tied))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - as_it_was).max() > 1e-3


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("quantize", GREATEST)
def test_panels_come_as_close_to_the_model(quantize):
    as_it_was = logits_of(model_of(MLP_BLOCK, tied=True))
    expected = np.linalg.norm(logits_of(model_of(MLP_BLOCK, tied=True, quantize=quantize)) - as_it_was)
    found = np.linalg.norm(logits_of(model_of(MLP_BLOCK, tied=True, quantize=quantize, panels=True)) - as_it_was)
    assert 0.5 * expected < found < 2 * expected  # activations are rounded, too


def test_small_weights_of_a_cpu_are_rounded_and_stay_in_float32():
    of_cpu = model_of(MLP_BLOCK, tied=False, quantize="int4", panels=True)
    found, expected = logits_of(of_cpu), logits_of(model_of(MLP_BLOCK, tied=False, quantize="int4"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    decoder = of_cpu.for_decoding()
    assert {leaf.dtype for leaf in jax.tree.leaves(decoder)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("quantize", GREATEST)
def test_a_mesh_writes_the_same(quantize):
    chain, prompts = parse_chain("greedy"), [[1, 2, 3], [4, 5]]

    def texts(model: Transformer) -> list[list[int]]:
        generator = Generator(model, vocab_size=VOCABULARY, context=CONTEXT)
        pieces = list(generator.stream(prompts, chain=chain, max_new_tokens=8))
        return [[token for step in pieces for token in step[row].tokens] for row in range(2)]

    alone = texts(model_of(MLP_BLOCK, tied=False, quantize=quantize))
    with jax.set_mesh(make_mesh({"tensor": 2, "data": 2}, jax.devices()[:4])):
        assert texts(model_of(MLP_BLOCK, tied=False, quantize=quantize)) == alone
