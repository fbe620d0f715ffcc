"""The table's lookup, and the same model on one device and on meshes of eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from model import config as c
from model import sharding
from model.sharding import ShardingError, make_mesh, place, shards, spec
from model.transformer import Transformer

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py"),
]
NORM = c.Norm("layer", bias=True)
MIXED = c.Model(
    vocab_size=64, width=32, context=16, positions=c.Learned(), init=c.Init(embedding=0.5, residual=0.2),
    layers=(
        c.Stack((c.Block(c.Attention(8, 4, 4, rope=c.Rope(), bias=True, output_bias=True, query_key_norm=NORM),
                         c.MLP(64, gated=True, bias=True), NORM, "sandwich", token_shift=0.25),), 2),
        c.Stack((c.Block(c.Attention(4, 4, 8), c.MLP(32, "gelu"), placement="post_residual"),), 1),
    ),
)  # fmt: skip
UNTIED = c.Model(
    vocab_size=64, width=16, context=16, tied=False, init=c.Init(residual=0.2),
    layers=(c.Stack((c.Block(c.Attention(4, 4, 4, rope=c.Rope()), c.MLP(32)),), 2),),
)  # fmt: skip
MESHES = {
    "data parallel": {"replica": 8},
    "fsdp": {"data": 8},
    "tensor 4, data 2": {"tensor": 4, "data": 2},
    "tensor 2, replica 2, data 2": {"tensor": 2, "replica": 2, "data": 2},
}


def loss_and_gradients(config: c.Model, execution: c.Execution):
    """Builds the model where the current mesh wants it, and differentiates its loss on sixteen rows."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (16, 17)).astype(np.int32)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = NamedSharding(jax.sharding.get_mesh(), spec(("batch", None), tokens.shape, "compute"))
        tokens = jax.device_put(tokens, rows)
    model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()

    def loss(model, tokens_BT):
        logits = model.logits(model.hidden(tokens_BT[:, :-1]))
        chosen = jnp.arange(config.vocab_size) == tokens_BT[:, 1:, None]
        return (jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0).sum(-1)).mean()

    return model, *jax.jit(jax.value_and_grad(loss))(model, tokens)


def assert_close(one, two, limit: float):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def alone():
    return {name: loss_and_gradients(config, c.Execution()) for name, config in (("mixed", MIXED), ("untied", UNTIED))}


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize(
    "name, execution", [("mixed", c.Execution()), ("untied", c.Execution(layers="unroll", remat="minimal"))]
)
def test_every_mesh_computes_the_same_loss_and_gradients(sizes, name, execution, alone):
    config = {"mixed": MIXED, "untied": UNTIED}[name]
    model, loss, gradients = alone[name]
    with jax.set_mesh(make_mesh(sizes)):
        model_there, loss_there, gradients_there = loss_and_gradients(config, execution)
    assert_close(model, model_there, 1e-6)
    assert abs(loss - loss_there) < 1e-5
    assert_close(gradients, gradients_there, 1e-5)


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_parameters_and_gradients_rest_as_the_storage_table_says(sizes):
    with jax.set_mesh(make_mesh(sizes)):
        model, _, gradients = loss_and_gradients(UNTIED, c.Execution())
    width, heads = ("data" if "data" in sizes else None), ("tensor" if "tensor" in sizes else None)
    for tree in (model, gradients):
        query = tree.stacks[0].pattern[0].mixer.query[...]
        assert query.sharding.spec == PartitionSpec(None, width, heads, None)
        pieces = sizes.get("data", 1) * sizes.get("tensor", 1)
        assert query.addressable_shards[0].data.size == query.size // pieces


def test_no_parameter_is_ever_whole_where_the_mesh_splits_it():
    with jax.set_mesh(make_mesh({"data": 4, "tensor": 2})):
        text = jax.jit(lambda: Transformer(UNTIED, jax.random.key(0))).lower().compile().as_text()
    assert "f32[64,16]" not in text and "f32[32,4]" in text  # the embedding, and one device's piece of it


def test_without_a_mesh_every_function_is_the_identity():
    x = jnp.ones((3, 5))
    assert spec(("batch", "width"), (3, 5), "compute") is None
    assert place(x, "batch", "width") is x
    assert shards("batch") == 1


def test_a_batch_is_split_over_replicas_and_data():
    with jax.set_mesh(make_mesh({"replica": 2, "data": 2, "tensor": 2})):
        assert (shards("batch"), shards("vocab"), shards("width")) == (4, 2, 1)


def test_a_size_that_does_not_divide_is_named_with_the_nearest_that_do():
    with jax.set_mesh(make_mesh({"tensor": 4, "data": 2})), pytest.raises(ShardingError) as error:
        spec(("width", "heads"), (16, 6), "storage")
    assert_one_line(error, "heads", "6", "tensor=4", "4 and 8")


def test_a_size_below_its_mesh_axis_is_told_only_what_exists():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        spec(("heads",), (3,), "storage")
    assert_one_line(error, "3", "8")
    assert "0" not in str(error.value)


def test_a_model_whose_heads_do_not_divide_is_refused_as_it_is_built():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        jax.eval_shape(lambda: Transformer(MIXED, jax.random.key(0)))
    assert_one_line(error, "kv_heads", "4", "tensor=8")


def test_two_axes_of_one_array_may_not_claim_one_mesh_axis():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        spec(("heads", "feed_forward"), (8, 8), "compute")
    assert_one_line(error, "heads", "feed_forward", "tensor", "twice")


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": 0, "tensor": 5}, {"data": 4}])
def test_a_mesh_that_does_not_fit_the_devices_is_refused_with_one_that_does(sizes):
    with pytest.raises(ShardingError) as error:
        make_mesh(sizes)
    assert_one_line(error, "8", "mesh.data=0")


@given(st.permutations(["replica", "data", "tensor"]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=20)
def test_the_axis_left_free_takes_the_rest_of_the_devices(names, first, second):
    mesh = make_mesh({names[0]: first, names[1]: second, names[2]: 0})
    assert mesh.shape[names[2]] == 8 // (first * second)
    assert mesh.axis_names == sharding.MESH_AXES


def assert_one_line(error, *parts: str):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
