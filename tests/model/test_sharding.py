"""The table's lookup, and the same model on one device and on meshes of eight."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from model import config as c
from model import sharding
from model.sharding import ShardingError, make_mesh, partition_spec, shard, shard_count
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
        rows = NamedSharding(jax.sharding.get_mesh(), partition_spec(("batch", None), tokens.shape, "compute"))
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
    assert partition_spec(("batch", "width"), (3, 5), "compute") is None
    assert shard(x, "batch", "width") is x
    assert shard_count("batch") == 1


def test_a_batch_is_split_over_replicas_and_data():
    with jax.set_mesh(make_mesh({"replica": 2, "data": 2, "tensor": 2})):
        assert (shard_count("batch"), shard_count("vocab"), shard_count("width")) == (4, 2, 1)


def test_a_size_that_does_not_divide_is_named_with_the_nearest_that_do():
    with jax.set_mesh(make_mesh({"tensor": 4, "data": 2})), pytest.raises(ShardingError) as error:
        partition_spec(("width", "heads"), (16, 6), "storage")
    assert_one_line(error, "heads", "6", "tensor=4", "4 and 8")


def test_a_size_below_its_mesh_axis_is_told_only_what_exists():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        partition_spec(("heads",), (3,), "storage")
    assert_one_line(error, "3", "8")
    assert "0" not in str(error.value)


def test_a_model_whose_heads_do_not_divide_is_refused_as_it_is_built():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        jax.eval_shape(lambda: Transformer(MIXED, jax.random.key(0)))
    assert_one_line(error, "kv_heads", "4", "tensor=8")


def test_two_axes_of_one_array_may_not_claim_one_mesh_axis():
    with jax.set_mesh(make_mesh({"tensor": 8})), pytest.raises(ShardingError) as error:
        partition_spec(("heads", "feed_forward"), (8, 8), "compute")
    assert_one_line(error, "heads", "feed_forward", "tensor", "twice")


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 16}, {"data": 0, "tensor": 5}, {"data": 4}])
def test_a_mesh_that_does_not_fit_the_devices_is_refused_with_one_that_does(sizes):
    with pytest.raises(ShardingError) as error:
        make_mesh(sizes)
    assert_one_line(error, "8", "mesh.data=0" if sizes["data"] else "1 or 2 or 4 or 8 fit")


@given(st.permutations(["replica", "data", "tensor"]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=20)
def test_the_axis_left_free_takes_the_rest_of_the_devices(names, first, second):
    mesh = make_mesh({names[0]: first, names[1]: second, names[2]: 0})
    assert mesh.shape[names[2]] == 8 // (first * second)
    assert mesh.axis_names == sharding.MESH_AXES


def test_a_replicas_devices_are_neighbours_and_stay_so_for_decoding():
    mesh = make_mesh({"replica": 2, "stage": 2, "data": 2})
    ids = np.vectorize(lambda device: device.id)(mesh.devices.squeeze())  # [stage, replica, data]
    assert ids.transpose(1, 0, 2).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    decoding = sharding.decoding_mesh(mesh)
    assert {axis: size for axis, size in decoding.shape.items() if size > 1} == {"replica": 4, "data": 2}
    assert [device.id for device in decoding.devices.flat] == list(range(8))


def by_name(sizes: dict[str, int]):
    return jax.set_mesh(make_mesh({"replica": 0, **sizes}))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_time_is_dealt_out_so_that_every_device_has_the_same_causal_work(count, size):
    with by_name({"context": count}):
        order = sharding.time_order(2 * count * size)
    assert sorted(order) == list(range(2 * count * size))
    work = (order + 1).reshape(count, -1).sum(1)  # keys that a device's queries see
    assert len(set(work)) == 1
    assert all(np.diff(piece).tolist() == [1] * (size - 1) for piece in order.reshape(2 * count, size))


def test_time_that_does_not_divide_into_two_pieces_a_device_is_refused():
    with by_name({"context": 4}), pytest.raises(ShardingError) as error:
        sharding.time_order(20)
    assert_one_line(error, "time", "20", "context=4", "16 and 24")


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_token_finds_the_one_before_it_however_time_lies(count):
    """Against NumPy on rows in their own order."""
    x = np.random.default_rng(0).standard_normal((4, 32, 3)).astype(np.float32)
    first = np.random.default_rng(1).standard_normal((4, 1, 3)).astype(np.float32)
    with by_name({"context": count, "replica": 1, "tensor": 0}):
        order = sharding.time_order(32)
        laid = shard(jnp.asarray(x[:, order]), "batch", "time", None)
        for given_first in (first, None):
            found = np.asarray(jax.jit(sharding.shift_right)(laid, given_first))
            start = np.zeros_like(first) if given_first is None else first
            np.testing.assert_array_equal(found[:, np.argsort(order)], np.concatenate([start, x[:, :-1]], axis=1))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0, 1]))
@settings(deadline=None, max_examples=20)
def test_what_is_split_on_each_device_is_joined_as_it_was(count, parts, size, axis):
    name, mesh_axis = (("batch", "data"), ("time", "context"))[axis]
    shape = [2, 3]
    shape[axis] = count * parts * size
    x = np.arange(np.prod(shape)).reshape(shape)
    with by_name({mesh_axis: count, "replica": 1, "tensor": 0}):
        laid = shard(jnp.asarray(x), *(name if i == axis else None for i in (0, 1)))
        apart = jax.jit(lambda x: sharding.split_within_shards(x, axis, parts, name))(laid)
        back = jax.jit(lambda x: sharding.join_within_shards(x, axis, name))(apart)
        assert sharding.partition_of(apart)[1:] == sharding.partition_of(laid) == sharding.partition_of(back)
    np.testing.assert_array_equal(back, x)
    pieces = np.split(x, count, axis)  # what each device had
    np.testing.assert_array_equal(apart[0], np.concatenate([np.split(p, parts, axis)[0] for p in pieces], axis))


def test_parts_that_do_not_divide_are_refused():
    with by_name({"context": 4}), pytest.raises(ShardingError) as error:
        sharding.check_chunks("time", 32, 3)
    assert_one_line(error, "time", "32", "3 parts", "4 shards", "24 and 36", "or 2 parts")


def test_gradients_are_summed_inside_a_slice_before_their_pieces_cross_to_the_next():
    """In the compiled program: no sum over replicas is as large as what a slice's devices hold together."""
    execution = c.Execution(layers="unroll")
    with jax.set_mesh(make_mesh({"replica": 2, "data": 4})):
        model = jax.jit(lambda: Transformer(UNTIED, jax.random.key(0), execution))()
        tokens = jax.device_put(
            np.ones((16, 8), np.int32),
            NamedSharding(jax.sharding.get_mesh(), partition_spec(("batch", None), (16, 8), "compute")),
        )
        program = jax.jit(jax.grad(lambda model: jnp.square(model.hidden(tokens)[..., ::2]).sum())).lower(model)
    sums = collectives(program.compile().as_text(), "all-reduce")
    table, up = 64 * 16, 16 * 32  # elements of the embedding and of a layer's matrix
    inside, across = [{size for size, group in sums if group == wanted} for wanted in (4, 2)]
    assert {table, up} <= inside and {table // 4, up // 4} <= across
    assert max(across) == table // 4
    assert not {size for size, group in sums if group == 8 and size >= up}


def collectives(program: str, kind: str) -> list[tuple[int, int]]:
    """(elements, devices that take part) of every array in a compiled program's collectives of a kind."""
    found = []
    for line in program.splitlines():
        result, call, rest = line.partition(f" {kind}(")
        groups = re.search(
            r"replica_groups=\{\{([0-9,]+)\}|replica_groups=\[\d+,(\d+)\]|replica_groups=mesh\[.*?\] (\{.*?\})", rest
        )
        if not call or not groups:
            continue
        named = dict(re.findall(r"'(\w+)'=(\d+)", rest))
        listed, counted, axes = groups.groups()
        group = len(listed.split(",")) if listed else int(counted) if counted else 0
        group = group or int(np.prod([int(named[axis]) for axis in re.findall(r"'(\w+)'", axes)]))
        found += [
            (int(np.prod([int(n) for n in shape.split(",")])), group)
            for shape in re.findall(r"f32\[([0-9,]+)\]", result)
        ]
    return found


def assert_one_line(error, *parts: str):
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
