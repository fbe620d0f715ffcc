"""Every attention kernel against the formula in NumPy, float64, forward and backward, on one device and on meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import config as c
from model import kernels
from model.kernels import KernelError, Visible, reference, ring
from model.sharding import make_mesh, place, time_order
from model.transformer import Transformer

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py"),
]
SCALE = 0.3
MESHES = {
    "context 8": {"context": 8},
    "context 4, replica 2": {"context": 4, "replica": 2},
    "context 2, tensor 2, data 2": {"context": 2, "tensor": 2, "data": 2},
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Queries, keys, values, the context's cotangent and documents of random rows, float32."""

    query_BNTH: np.ndarray
    key_BKSH: np.ndarray
    value_BKSH: np.ndarray
    slope_BNTH: np.ndarray
    segments_BT: np.ndarray | None


def rows(
    length: int = 64, heads: int = 4, kv_heads: int = 2, batch: int = 2, size: int = 8, documents: int = 5
) -> Rows:
    """Documents of random lengths, a row's first and last longer than a quarter of it; 0 documents: no segments."""
    random = np.random.default_rng(0)
    shapes = [(batch, n, length, size) for n in (heads, kv_heads, kv_heads, heads)]
    segments = (
        np.sort(random.integers(1, documents + 1, (batch, length)), axis=1).astype(np.int32) if documents else None
    )
    return Rows(*(random.standard_normal(shape).astype(np.float32) for shape in shapes), segments)


def numpy_attention(given: Rows) -> list[np.ndarray]:
    """The context and the gradients of query, key and value, one head of one row at a time."""
    (rows, heads, length, _), kv_heads = given.query_BNTH.shape, given.key_BKSH.shape[1]
    found = [np.zeros(x.shape) for x in (given.query_BNTH, given.query_BNTH, given.key_BKSH, given.value_BKSH)]
    for row, head in np.ndindex(rows, heads):
        shared = head * kv_heads // heads
        query, slope = (x[row, head].astype(np.float64) for x in (given.query_BNTH, given.slope_BNTH))
        key, value = (x[row, shared].astype(np.float64) for x in (given.key_BKSH, given.value_BKSH))
        seen = np.tri(length, dtype=bool)
        if given.segments_BT is not None:
            seen &= given.segments_BT[row][:, None] == given.segments_BT[row]
        scores = np.where(seen, query @ key.T * SCALE, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        context = weights @ value
        score_slope = weights * (slope @ value.T - (slope * context).sum(1, keepdims=True)) * SCALE
        found[0][row, head] = context
        found[1][row, head] = score_slope @ key
        found[2][row, shared] += score_slope.T @ query
        found[3][row, shared] += weights.T @ slope
    return found


def program(attention, dtype=jnp.float32):
    """A function of (query, key, value, slope, segments) to the context and the three gradients."""

    def run(query, key, value, slope, segments):
        query, key, value, slope = (x.astype(dtype) for x in (query, key, value, slope))
        query, slope = (place(x, "batch", "heads", "time", None) for x in (query, slope))
        key, value = (place(x, "batch", "kv_heads", "time", None) for x in (key, value))
        segments = None if segments is None else place(segments, "batch", "time")
        slots_T = jnp.asarray(time_order(query.shape[2]), jnp.int32)
        slots = place(jnp.broadcast_to(slots_T, (query.shape[0], query.shape[2])), "batch", "time")
        context, back = jax.vjp(lambda *given: attention(*given, Visible(slots, segments), SCALE), query, key, value)
        return context, *back(slope)

    return run


def computed(attention, given: Rows, sizes: dict[str, int] | None = None, dtype=jnp.float32) -> list[np.ndarray]:
    """What `program` finds on a mesh of these sizes, in reading order."""
    with jax.set_mesh(make_mesh(sizes)) if sizes else jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
        order = time_order(given.query_BNTH.shape[2])
        arrays = [x[:, :, order] for x in vars(given).values() if x is not None and x.ndim == 4]
        segments = None if given.segments_BT is None else given.segments_BT[:, order]
        found = jax.jit(program(attention, dtype))(*arrays, segments)
        return [np.asarray(x, np.float64)[:, :, np.argsort(order)] for x in found]


def assert_near(found: list, expected: list, limit: float):
    """Norm of each difference relative to the norm of what is expected."""
    for name, a, b in zip(("context", "query", "key", "value"), found, expected, strict=True):
        assert np.linalg.norm(a - b) < limit * np.linalg.norm(b), name


@pytest.mark.parametrize("documents", [0, 5])
@pytest.mark.parametrize("name", ["reference", "held", "ring"])
def test_a_kernel_computes_the_formula_and_its_gradients(name, documents):
    given = rows(documents=documents)
    assert_near(computed(kernels.for_rows(name), given), numpy_attention(given), 1e-6)


# The ring.


@pytest.mark.parametrize("documents", [0, 5])
@pytest.mark.parametrize("block", [1024, 2], ids=["whole pieces", "blocks of 2"])
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_the_ring_computes_the_formula_on_every_mesh(sizes, block, documents, monkeypatch):
    monkeypatch.setattr(ring, "LARGEST", block)
    monkeypatch.setattr(ring, "SMALLEST", min(block, ring.SMALLEST))
    given = rows(documents=documents)
    assert_near(computed(kernels.for_rows("ring"), given, sizes), numpy_attention(given), 1e-6)


def test_the_ring_sums_in_float32_whatever_it_is_given():
    """bfloat16: no further from the formula than rounding its inputs, weights and results makes it."""
    given = rows(256, documents=3)
    assert_near(computed(ring.attention, given, {"context": 4, "data": 2}, jnp.bfloat16), numpy_attention(given), 6e-3)


def test_a_document_of_one_token_on_another_device_than_its_row_is_no_nan():
    """Every token its own document: of all blocks but its own a query sees no key, and its context is its value."""
    given = dataclasses.replace(rows(), segments_BT=np.arange(64, dtype=np.int32)[None].repeat(2, axis=0))
    context, query_slope, key_slope, _ = computed(ring.attention, given, {"context": 8})
    np.testing.assert_allclose(context, given.value_BKSH.repeat(2, axis=1), rtol=1e-6)
    assert max(np.abs(query_slope).max(), np.abs(key_slope).max()) < 1e-5


def test_each_device_computes_as_many_blocks_as_every_other_and_none_that_is_hidden():
    count, blocks = 4, 4  # devices, and blocks on each: two a piece

    def work(device):
        def visit(pairs, held, computed, _):
            return computed.at[held[0], pairs[:, 0], pairs[:, 1]].add(1), ()

        nothing = jnp.zeros((count, blocks, blocks), int)
        return ring.round_the_ring(visit, ("context",), blocks, device, nothing, ())[0][None]

    with jax.set_mesh(make_mesh({"context": count, "data": 2})):
        slots = time_order(count * blocks).reshape(count, blocks)
        devices = place(jnp.arange(count), "time")
        spec = jax.P("context")
        found = jax.jit(jax.shard_map(work, in_specs=spec, out_specs=spec, check_vma=False))(devices)
    needed = slots[None, :, None, :] <= slots[:, None, :, None]  # key's device and block, query's device and block
    np.testing.assert_array_equal(found, needed)
    assert len(set(found.sum((1, 2, 3)).tolist())) == 1


def test_backward_keeps_the_context_and_one_number_a_query_and_goes_round_once_more():
    """With `minimal` the ring is not computed twice: its results bear a name that is kept."""
    given = rows(documents=0)
    policy = jax.checkpoint_policies.save_only_these_names("query", "key", "value", "context")

    def moves(attention) -> int:
        with jax.set_mesh(make_mesh({"context": 8})):
            arrays = [x for x in vars(given).values() if x is not None]
            return str(jax.make_jaxpr(program(attention))(*arrays, None)).count("ppermute[")

    def named(query, key, value, visible, scale):
        return jax.checkpoint(lambda *given: ring.attention(*given, visible, scale), policy=policy)(query, key, value)

    def forgetful(query, key, value, visible, scale):
        return jax.checkpoint(lambda *given: ring.attention(*given, visible, scale))(query, key, value)

    assert moves(named) == moves(ring.attention) < moves(forgetful)


def test_the_scores_of_a_long_row_are_never_held_whole():
    """Length 8192 over eight devices: each holds less than a fiftieth of what the reference does."""
    given = [jax.ShapeDtypeStruct((1, 2, 8192, 8), jnp.float32)] * 4
    alone = jax.jit(program(reference.attention)).lower(*given, None).compile().memory_analysis()
    with jax.set_mesh(make_mesh({"context": 8})):
        ringed = jax.jit(program(ring.attention)).lower(*given, None).compile().memory_analysis()
    assert ringed.temp_size_in_bytes * 50 < alone.temp_size_in_bytes


def test_a_length_that_has_no_block_is_refused_with_those_that_have():
    with jax.set_mesh(make_mesh({"context": 8})), pytest.raises(KernelError) as error:
        jax.eval_shape(program(kernels.for_rows("ring")), *shapes(rows(16 * 1031)), None)
    assert_one_line(error, "execution.kernel=ring", "16496", "context=8", "2048")


def test_the_ring_refuses_to_drop_weights_and_auto_gathers_the_row_instead():
    given, drop = rows(), (0.5, jax.random.key(0))
    with jax.set_mesh(make_mesh({"context": 8})):
        with pytest.raises(KernelError) as error:
            kernels.chosen("ring", given.query_BNTH, given.key_BKSH, None, drop)
        assert kernels.chosen("auto", given.query_BNTH, given.key_BKSH, None, drop) == "reference"
    assert_one_line(error, "execution.kernel=ring", "dropout", "reference")


def shapes(given: Rows) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in vars(given).values() if x is not None and x.ndim == 4]


# The choice.


def test_auto_is_the_ring_where_the_mesh_splits_time():
    given = rows()
    choose = functools.partial(kernels.chosen, "auto", given.query_BNTH, given.key_BKSH, None)
    assert choose() == "reference"
    with jax.set_mesh(make_mesh({"data": 8})):
        assert choose() == "reference"
    with jax.set_mesh(make_mesh({"context": 2, "data": 4})):
        assert choose() == "ring"


@pytest.mark.parametrize("layers, remat", [("scan", "minimal"), ("unroll", "none"), ("scan", "full")])
def test_a_model_on_a_mesh_that_splits_time_has_the_same_gradients(layers, remat):
    """Two packed rows through two layers, time over four devices against one device."""
    mixer = c.Attention(4, 2, 4, rope=c.Rope())
    config = c.Model(32, 16, 32, (c.Stack((c.Block(mixer, c.MLP(24)),), 2),), init=c.Init(1.0, residual=0.3))
    random = np.random.default_rng(0)
    tokens = random.integers(0, 32, (2, 32)).astype(np.int32)
    segments = np.sort(random.integers(1, 4, (2, 32)), axis=1).astype(np.int32)

    def gradients(execution: c.Execution):
        order = time_order(32)
        model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()

        def loss(model, tokens_BT, segments_BT):
            tokens_BT, segments_BT = (place(x, "batch", "time") for x in (tokens_BT, segments_BT))
            return (model.hidden(tokens_BT, segments_BT) ** 3).mean()

        return jax.jit(jax.value_and_grad(loss))(model, tokens[:, order], segments[:, order])

    alone = gradients(c.Execution(kernel="reference"))
    with jax.set_mesh(make_mesh({"context": 4, "tensor": 2})):
        there = gradients(c.Execution(kernel="auto", layers=layers, remat=remat))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(there), strict=True):
        assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * np.linalg.norm(a)


def assert_one_line(error, *parts: str):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
