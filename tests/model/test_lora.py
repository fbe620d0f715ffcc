"""Adapters against NumPy in float64, as layers are scanned and unrolled, on meshes, while decoding; and merged."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from model import config as c
from model import lora
from model.paths import flatten_by_path, parameters_by_path
from model.sharding import make_mesh, partition_spec
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(120)
VOCAB, WIDTH, CONTEXT = 32, 16, 16
BLOCK = c.Block(c.Attention(4, 2, 4, rope=c.Rope(), bias=True), c.MLP(24, gated=True, bias=True))
INIT = c.Init(embedding=1.0, residual=0.3)
TIED = c.Model(VOCAB, WIDTH, CONTEXT, (c.Stack((BLOCK,), 2),), positions=c.Learned(), init=INIT)
ALL = c.LoRA(3, 6.0, ("*.mixer.*", "*.feed_forward.*", "output", "embedding.table", "positions.table"))
LAYERS = c.LoRA(4, 2.0, ("stacks.*.mixer.query", "stacks.*.mixer.output", "*.down"))


@functools.cache
def adapted(config: c.Model = TIED, choice: c.LoRA = ALL, **execution):
    """A base, and adapters that change it."""
    return made(config, choice, c.Execution(**execution))


def made(config: c.Model, choice: c.LoRA, execution: c.Execution):
    def make():
        base = Transformer(config, jax.random.key(0), execution)
        base = lora.untie(base) if lora.adapted_config(config, choice) != config else base
        adapters = lora.create_adapters(config, choice, jax.random.key(1))
        keys = iter(jax.random.split(jax.random.key(2), len(adapters)))
        for adapter in adapters.values():
            up = adapter.up
            spec = partition_spec(up.axes, up.shape, "storage")
            noise = jax.random.normal(next(keys), up.shape, out_sharding=spec)
            adapter.up = up.replace(noise)
        return base, adapters

    return jax.jit(make)()


def tokens(rows: int = 4, length: int = CONTEXT) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (rows, length)).astype(np.int32)


@jax.jit
def logits(base, adapters, tokens_BT):
    model = lora.combine(base, adapters)
    return model.logits(model.hidden(tokens_BT))


def numpy_merge(base: Transformer, adapters: lora.Adapters, scale: float) -> Transformer:
    """The base with W + scale * down up in place of W: NumPy, float64, a matrix at a time."""
    weights = {path: np.asarray(x, np.float64) for path, x in flatten_by_path(base).items()}
    parameters = parameters_by_path(base)
    for path, adapter in adapters.items():
        inputs, rank = parameters[path].input_axes, adapter.up.shape[1 if path.startswith("stacks") else 0]
        for layer in range(2) if path.startswith("stacks") else [...]:
            weight = weights[path][layer]
            down = np.asarray(adapter.down[...], np.float64)[layer].reshape(-1, rank)
            up = np.asarray(adapter.up[...], np.float64)[layer].reshape(rank, -1)
            assert down.shape[0] == np.prod(weight.shape[:inputs])
            weights[path][layer] = weight + scale * (down @ up).reshape(weight.shape)
    leaves = [weights[path].astype(np.float32) for path in flatten_by_path(base)]
    return jax.tree.unflatten(jax.tree.structure(base), leaves)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_adapters_of_every_kind_of_matrix_compute_what_numpy_merges(layers):
    """In a tied model too: its table and its output are changed each on its own."""
    base, adapters = adapted(layers=layers)
    paths = {path.rsplit(".", 1)[-1] for path in adapters}
    assert paths == {"query", "key", "value", "output", "up", "gate", "down", "table"} and "output" in adapters
    expected = logits(numpy_merge(base, adapters, 6 / 3), {}, tokens())
    assert np.abs(expected - logits(base, {}, tokens())).max() > 0.5
    np.testing.assert_allclose(logits(base, adapters, tokens()), expected, atol=2e-4)
    merged = jax.jit(lora.merge)(base, adapters)
    np.testing.assert_allclose(logits(merged, {}, tokens()), expected, atol=2e-4)
    assert not merged.config.tied and jax.tree.structure(merged) == jax.tree.structure(base)


def test_new_adapters_change_nothing():
    base, _ = adapted()
    new = jax.jit(lambda: lora.create_adapters(TIED, ALL, jax.random.key(0)))()
    np.testing.assert_array_equal(logits(base, new, tokens()), logits(base, {}, tokens()))
    deviation = np.std(new["stacks.0.pattern.0.mixer.output"].down[...])  # of 2 x 16 x 3 numbers
    assert deviation == pytest.approx(WIDTH**-0.5, rel=0.3)


def test_a_tied_model_stays_tied_where_no_adapter_changes_its_matrix():
    assert lora.adapted_config(TIED, LAYERS) == TIED == lora.adapted_config(TIED, None)
    model = jax.jit(lambda: Transformer(TIED, jax.random.key(0)))()
    untied = lora.untie(model)
    assert model.output is None and untied.config == dataclasses.replace(TIED, tied=False)
    np.testing.assert_array_equal(logits(untied, {}, tokens()), logits(model, {}, tokens()))


def test_no_step_makes_a_matrix_of_an_adapters_product():
    """Of all products of a forward pass none has the shape of a weight, but what the inputs are multiplied with."""
    base, adapters = adapted(choice=LAYERS)
    text = str(jax.make_jaxpr(logits)(base, adapters, tokens()))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 8 and not [line for line in products if "f32[24,16]" in line.split("=")[0]]
    merged = str(jax.make_jaxpr(lora.merge)(base, adapters))
    assert "f32[2,24,16] = dot_general" in merged


def loss(adapters, base, tokens_BT):
    model = lora.combine(base, adapters)
    return jnp.square(jax.nn.log_softmax(model.logits(model.hidden(tokens_BT)))).mean()


@functools.cache
def loss_and_gradients(layers: str = "scan", sizes: tuple = ()):
    rows = tokens(16)
    execution = c.Execution(layers=layers)
    if not sizes:
        base, adapters = made(TIED, ALL, execution)
        return jax.jit(jax.value_and_grad(loss))(adapters, base, rows)
    with jax.set_mesh(make_mesh(dict(sizes))):
        base, adapters = made(TIED, ALL, execution)
        spec = partition_spec(("batch", "time"), rows.shape, "compute")
        rows = jax.device_put(rows, NamedSharding(jax.sharding.get_mesh(), spec))
        value, gradients = jax.jit(jax.value_and_grad(loss))(adapters, base, rows)
        for adapter, gradient in zip(jax.tree.leaves(adapters), jax.tree.leaves(gradients), strict=True):
            assert adapter.sharding == gradient.sharding
        merged = jax.jit(lora.merge)(base, adapters)
        same_places = jax.tree.map(lambda a, b: a.sharding == b.sharding, merged, base)
        assert all(jax.tree.leaves(same_places))
        return value, gradients


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize(
    "sizes",
    [pytest.param({"data": 4, "tensor": 2}, marks=pytest.mark.slow(12)), {"stage": 2, "data": 2, "tensor": 2}],
    ids=str,
)
def test_every_mesh_computes_the_same_loss_and_gradients_of_adapters(sizes):
    value, gradients = loss_and_gradients()
    value_there, gradients_there = loss_and_gradients("scan", tuple(sizes.items()))
    assert abs(value - value_there) < 1e-4 * value
    for path, gradient in flatten_by_path(gradients).items():
        there = np.asarray(flatten_by_path(gradients_there)[path])
        assert np.linalg.norm(gradient - there) <= 1e-4 * np.linalg.norm(gradient), path


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("panels", [False, True])
def test_a_cache_gives_the_logits_of_the_whole_row(panels):
    base, adapters = adapted(panels=panels)
    model = lora.combine(base, adapters).for_decoding()
    rows, cache = tokens(2), model.init_cache(2, CONTEXT)
    first, cache = jax.jit(lambda model, *inputs: model(*inputs))(model, rows[:, :10], cache)
    second, _ = jax.jit(lambda model, *inputs: model(*inputs))(model, rows[:, 10:], cache)
    np.testing.assert_allclose(np.concatenate([first, second], 1), logits(base, adapters, rows), atol=2e-4)


def test_eight_bits_are_the_weights_and_not_the_adapters():
    base, adapters = adapted(choice=LAYERS, matmul="int8")
    text = str(jax.make_jaxpr(logits)(base, adapters, tokens()))
    assert "i8[16,4]" not in text and "i8[24,4]" not in text and "i8[64,16]" in text


MIXTURE = c.Block(BLOCK.mixer, c.MoE(4, 2, 12, shared=8))
RECURRENT = c.Block(c.LSTM(), None, placement="plain")


@pytest.mark.parametrize(
    "block, pattern, parts",
    [
        (BLOCK, "stacks.*.mixr.query", ["matches no matrix", "stacks.0.pattern.0.mixer.query"]),
        (BLOCK, "*.mixer.query_bias", ["matches only vectors, as stacks.0.pattern.0.mixer.query_bias", "mixer.query'"]),
        (MIXTURE, "*.feed_forward.router", ["'stacks.0.pattern.0.feed_forward.router'", "adapters of routers"]),
        (MIXTURE, "*.feed_forward.up", ["'stacks.0.pattern.0.feed_forward.up'", "adapters of experts are not built"]),
        (RECURRENT, "*.mixer.*", ["'stacks.0.pattern.0.mixer.recurrent'", "adapters of recurrent weights"]),
    ],
)
def test_a_pattern_that_fits_no_adapter_is_refused_in_one_line(block, pattern, parts):
    config = dataclasses.replace(TIED, layers=(c.Stack((block,), 2),))
    with pytest.raises(lora.AdapterError) as error:
        lora.create_adapters(config, c.LoRA(2, 2.0, ("output", pattern)), jax.random.key(0))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in (f"lora.paths: {pattern!r} matches", *parts)), error.value


def test_the_feed_forward_that_all_tokens_share_takes_adapters():
    config = dataclasses.replace(TIED, layers=(c.Stack((MIXTURE,), 2),))
    base, adapters = adapted(config, c.LoRA(2, 2.0, ("*.shared.*",)))
    merged = jax.jit(lora.merge)(base, adapters)
    np.testing.assert_allclose(logits(merged, {}, tokens()), logits(base, adapters, tokens()), atol=2e-4)
