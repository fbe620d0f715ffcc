"""Products in 8 bits: their error, their gradients, and the program that computes them, alone and on meshes."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwix._src.core.dot_general_qt import DotGeneralQtConfig, dot_general_qt  # the op of qwix's own training

from model import attention, layers, mlp, quantized
from model import config as c
from model.sharding import make_mesh, partition_spec, time_order
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(180)
NAMES = ("int8", "fp8")
# Everything `project` computes: grouped query, key, value and output; gate, up and down.
BLOCK = c.Block(
    c.Attention(8, 4, 4, rope=c.Rope(), bias=True, output_bias=True, query_key_norm=c.Norm()), c.MLP(64, gated=True)
)
MODEL = c.Model(64, 32, 16, (c.Stack((BLOCK,), 2),), init=c.Init(residual=0.2))
PRODUCTS = 7


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Normal numbers whose rows differ in size a hundredfold, so that one scale for all would be told."""
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal(shape) * 10.0 ** random.uniform(-1, 1, (*shape[:-1], 1))).astype(np.float32)
        for shape in shapes
    ]


def rounding(matrix: np.ndarray, name: str, over: int) -> np.ndarray:
    """The largest error of each number: half a step of int8, of which 127.5 reach the largest; e4m3 keeps three bits
    behind the leading one down to 2^-6, and 448 reaches the largest."""
    largest = np.abs(matrix).max(over, keepdims=True)
    if name == "int8":
        return np.broadcast_to(largest / 127.5 / 2, matrix.shape)
    return np.maximum(np.abs(matrix) * 2.0**-4, largest / 448 * 2.0**-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_product_keeps_the_error_bound_of_its_format(name):
    """Against float64: every result within what the rounding of its own row and column allows."""
    x, weight = drawn((48, 96), (40, 96))
    exact_x, exact_weight = x.astype(np.float64), weight.T.astype(np.float64)
    error_x, error_weight = rounding(exact_x, name, 1), rounding(exact_weight, name, 0)
    bound = np.abs(exact_x) @ error_weight + error_x @ (np.abs(exact_weight) + error_weight)
    found = np.asarray(jax.jit(lambda x, w: quantized.project(x, w, 1, name))(x, weight.T), np.float64)
    assert (np.abs(found - exact_x @ exact_weight) <= bound * (1 + 1e-4)).all()
    assert np.abs(found - exact_x @ exact_weight).max() > 1e-4 * bound.max()  # it is rounded


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_zeros_take_no_part_in_the_gradient_of_the_weight(name):
    """As in the states before the first tokens of documents; a gradient of any size may stand beside them."""
    x, weight, gradient = drawn((24, 16), (16, 8), (24, 8))
    with_zeros = np.concatenate([x, 0 * x]), np.concatenate([gradient, 100 * gradient])
    slope = lambda x, gradient: jax.vjp(lambda w: quantized.project(x, w, 1, name), weight)[1](gradient)[0]  # noqa: E731
    np.testing.assert_allclose(slope(*with_zeros), slope(x, gradient), rtol=1e-5, atol=1e-5 * np.abs(weight).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x_shape, weight_shape, inputs", [((3, 5, 16), (16, 4, 2), 1), ((3, 5, 4, 2), (4, 2, 16), 2)])
def test_a_product_and_its_gradients_are_those_of_qwix_training(name, x_shape, weight_shape, inputs):
    x, weight, pull = drawn(x_shape, weight_shape, (*x_shape[:2], *weight_shape[inputs:]))
    form, axes = quantized.FORMATS[name], tuple(range(inputs))
    config = DotGeneralQtConfig(
        lhs_qtype=form.value, rhs_qtype=form.value, dlhs_grad_qtype=form.gradient, drhs_grad_qtype=form.gradient
    )
    numbers = ((tuple(2 + axis for axis in axes), axes), ((), ()))
    expected = jax.vjp(lambda x, w: dot_general_qt(x, w, numbers, config), x, weight)
    found = jax.vjp(lambda x, w: quantized.project(x, w, inputs, name), x, weight)
    for one, two in zip((expected[0], *expected[1](pull)), (found[0], *found[1](pull)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def loss_and_gradients(execution: c.Execution, config: c.Model = MODEL):
    """The loss of sixteen rows and its gradient, on the current mesh; the program's text."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (16, 17)).astype(np.int32)
    tokens, targets = (rows[:, time_order(16)] for rows in (tokens[:, :-1], tokens[:, 1:]))
    if not jax.sharding.get_abstract_mesh().empty:
        rows = jax.NamedSharding(jax.sharding.get_mesh(), partition_spec(("batch", "time"), tokens.shape, "compute"))
        tokens, targets = jax.device_put((tokens, targets), rows)
    model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()

    def loss(model, tokens_BT, targets_BT):
        logits = model.logits(model.hidden(tokens_BT)).astype(jnp.float32)
        chosen = jnp.arange(config.vocab_size) == targets_BT[..., None]
        return (jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0).sum(-1)).mean()

    program = jax.jit(jax.value_and_grad(loss)).lower(model, tokens, targets)
    return *jax.device_get(program.compile()(model, tokens, targets)), program.as_text()


def cosine(one, two) -> float:
    """Of all parameters' gradients as one vector."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, two))
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.fixture(scope="module")
def alone():
    return {name: loss_and_gradients(c.Execution(matmul=name)) for name in ("plain", *NAMES)}


# Of gradients the least cosine, of losses the furthest distance (nats). Measured on one device and every mesh below,
# on both versions of JAX: int8 0.9971 and 0.0004, fp8 0.9652 and 0.0017.
NEAR = {"int8": (0.995, 2e-3), "fp8": (0.95, 5e-3)}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_point_where_those_of_float32_do(name, alone):
    (loss, gradients, _), (exact_loss, exact_gradients, _) = alone[name], alone["plain"]
    least, furthest = NEAR[name]
    assert 0 < abs(loss - exact_loss) < furthest
    assert least < cosine(gradients, exact_gradients) < 1 - 1e-6


def eight_bit_products(text: str) -> list[tuple[str, str, str]]:
    """(left, right, result) element types of the 8-bit products of a lowered program."""
    types = re.findall(
        r"stablehlo\.dot_general .*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\) -> tensor<(?:\d+x)*(\w+)>", text
    )
    return sorted(t for t in types if "8" in t[0] + t[1])


def test_the_program_multiplies_integers(alone):
    """Forward, for x and for the weight, of all that is projected in the one layer that is compiled; logits are not."""
    assert eight_bit_products(alone["int8"][2]) == [("i8", "i8", "i32")] * (3 * PRODUCTS)


def test_the_program_multiplies_eight_bit_floats(alone):
    value, gradient = "f8E4M3FN", "f8E5M2"
    pairs = [(value, value), (value, gradient), (gradient, value)]
    assert eight_bit_products(alone["fp8"][2]) == sorted((*pair, "f32") for pair in pairs for _ in range(PRODUCTS))


@pytest.mark.parametrize("name, fields", [("int8", {"layers": "unroll"}), ("fp8", {"remat": "minimal"})])
def test_no_order_of_layers_changes_more_than_the_last_bits(name, fields, alone):
    loss, gradients, _ = loss_and_gradients(c.Execution(matmul=name, **fields))
    assert abs(loss - alone[name][0]) < NEAR[name][1] / 4
    assert cosine(gradients, alone[name][1]) > 1 - (1 - NEAR[name][0]) / 2


STAGES = {"stage": 2, "data": 2, "tensor": 2}
MESHES = [{"data": 4, "tensor": 2}, {"replica": 2, "context": 4}, {"context": 2, "data": 2, "tensor": 2}, STAGES]


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize("name, sizes", [*(("int8", sizes) for sizes in MESHES), ("fp8", STAGES)], ids=str)
def test_a_mesh_computes_the_same_within_its_rounding(name, sizes, alone):
    """Not the same bits: parts of a contracted axis have scales of their own, and the gradients of a batch's parts too.
    Neither further from float32 than one device is, nor from that one."""
    with jax.set_mesh(make_mesh(sizes)):
        loss, gradients, text = loss_and_gradients(c.Execution(matmul=name))
    least, furthest = NEAR[name]
    for other in (alone[name], alone["plain"]):
        assert abs(loss - other[0]) < furthest
        assert cosine(gradients, other[1]) > least
    assert len(eight_bit_products(text)) == 3 * PRODUCTS


def test_plain_products_are_what_they_were(alone, monkeypatch):
    for module in (attention, mlp):
        monkeypatch.setattr(module, "project", lambda formula, x, w, *axes: layers.einsum(formula, x, w[...], *axes))
    assert loss_and_gradients(c.Execution())[2] == alone["plain"][2]


def test_plain_products_load_no_qwix():
    program = "import model.transformer, sys; sys.exit('qwix' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


@pytest.mark.usefixtures("small_panels")
@pytest.mark.parametrize("name, panels", [("int8", True), ("fp8", False)])
def test_a_decoder_reads_as_training_does(name, panels):
    """Token after token through the cache: a token's scales are its own, whatever is read with it."""
    model = jax.jit(lambda: Transformer(MODEL, jax.random.key(0), c.Execution(matmul=name, panels=panels)))()
    tokens = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)
    expected = jax.jit(lambda m, x: m.logits(m.hidden(x)))(model, tokens)
    reader, read = jax.jit(type(model).for_decoding)(model), jax.jit(lambda m, x, cache: m(x, cache))
    cache, found = jax.jit(lambda m: m.init_cache(2, 12))(reader), []
    for start in range(0, 12, 3):
        logits, cache = read(reader, tokens[:, start : start + 3], cache)
        found.append(logits)
    assert np.linalg.norm(np.concatenate(found, 1) - expected) < 0.02 * np.linalg.norm(expected)
