"""The order of layers: stages of a pipeline, what the backward pass keeps, what is dropped, and refusals."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model import schedule
from model.forward_pass import ForwardPass, ResidualStream
from model.kernels import AttentionMask
from model.layers import dropout
from model.sharding import ShardingError, make_mesh, shard
from model.transformer import Transformer

pytestmark = pytest.mark.timeout(200)
ROWS, LENGTH, WIDTH, FEATURES = 8, 16, 32, 48
MODEL = c.Model(
    64, WIDTH, LENGTH, (c.Stack((c.Block(c.Attention(4, 2, 8, rope=c.Rope()), c.MLP(FEATURES, gated=True)),), 4),),
    init=c.Init(residual=0.3),
)  # fmt: skip
HEADS, KEYS = ROWS * LENGTH * 4 * 8, ROWS * LENGTH * 2 * 8
SIZES = {"query": HEADS, "key": KEYS, "value": KEYS, "context": HEADS, "middle": ROWS * LENGTH * WIDTH}
SIZES |= {"gate": ROWS * LENGTH * FEATURES, "up": ROWS * LENGTH * FEATURES}
SIZES |= {"first norm": ROWS * LENGTH, "second norm": ROWS * LENGTH}
ATTENTION = SIZES.keys() - {"gate", "up"}


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (ROWS, LENGTH)).astype(np.int32)


def differentiated(execution: c.Execution, config: c.Model = MODEL):
    """(model, loss, gradients) of the sum of squared hidden states."""
    model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()
    run = jax.jit(jax.value_and_grad(lambda model, x: jnp.square(model.hidden(x)[..., ::2]).mean()))
    return model, *run(model, tokens())


def kept(remat: str) -> list[tuple[int, str]]:
    """(elements a layer, memory) of every stacked array that the forward scan hands to the backward one."""
    execution = c.Execution(remat=remat)
    model = jax.eval_shape(lambda: Transformer(MODEL, jax.random.key(0), execution))
    _, backward = jax.eval_shape(lambda model: jax.vjp(lambda model: model.hidden(jnp.asarray(tokens())), model), model)
    weights = {x.shape for x in jax.tree.leaves(model)}
    saved = [x for x in jax.tree.leaves(backward) if x.shape[:2] == (4, ROWS) and x.shape not in weights]
    return sorted((x.size // 4) for x in saved)


@pytest.mark.parametrize(
    "remat, names",
    [("minimal", SIZES.keys()), ("save_qkv", ATTENTION), ("full", set())],
    ids=["minimal", "save_qkv", "full"],
)
def test_a_remat_policy_keeps_what_it_names_and_each_layers_input(remat, names):
    layer_input = ROWS * LENGTH * WIDTH
    assert kept(remat) == sorted([layer_input, *(SIZES[name] for name in names)])
    assert len(kept("none")) > len(kept("minimal"))


def test_offload_keeps_in_the_hosts_memory_what_save_qkv_keeps():
    execution = c.Execution(remat="offload")
    model = jax.eval_shape(lambda: Transformer(MODEL, jax.random.key(0), execution))
    program = str(jax.make_jaxpr(jax.grad(lambda model, x: model.hidden(x).sum()))(model, tokens()))
    moved = re.findall(r"f32<host>\[([0-9,]+)\] = device_put", program)
    assert sorted(math.prod(map(int, shape.split(","))) for shape in moved) == sorted(SIZES[name] for name in ATTENTION)


@pytest.mark.parametrize("remat", ["minimal", "save_qkv", "full", "offload"])
def test_every_policy_computes_the_same(remat):
    _, *expected = differentiated(c.Execution())
    _, *found = differentiated(c.Execution(remat=remat))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_four_stages_compute_what_one_device_does(layers):
    """Also unrolled, without segments, and in as many microbatches as are asked for."""
    _, *expected = differentiated(c.Execution())
    execution = c.Execution(layers=layers, remat="minimal", stage_microbatches=2)
    with jax.set_mesh(make_mesh({"stage": 4, "data": 2})):
        model, *found = differentiated(execution)
        held = model.stacks[0].pattern[0].mixer.query[...].addressable_shards[0].data
    assert held.shape[0] == 1  # of four layers
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert np.linalg.norm(np.asarray(one) - np.asarray(other)) <= 1e-5 * np.linalg.norm(one)


# Dropout: no two draws have one mask.

DROPS = replace(MODEL.layers[0].pattern[0], mixer=replace(MODEL.layers[0].pattern[0].mixer, dropout=0.3), dropout=0.5)


def test_no_two_draws_of_a_pass_share_a_key(monkeypatch):
    """Every key that reaches a draw, listed: two stacks, two repeats of a pattern of two blocks each."""
    drawn, draw = [], jax.random.bernoulli

    def listed(key, *given, **named):
        drawn.append(jax.random.key_data(key))
        return draw(key, *given, **named)

    def keys():
        stack = c.Stack((DROPS, DROPS), 2)
        config = replace(MODEL, layers=(stack, stack), dropout=0.2)
        model = Transformer(config, jax.random.key(0), c.Execution(layers="unroll"))
        model.hidden(tokens(), key=jax.random.key(7))
        return jnp.stack(drawn)

    monkeypatch.setattr(jax.random, "bernoulli", listed)
    found = np.asarray(jax.jit(keys)())
    assert len(found) == 1 + 8 * 3  # the embedding; in every layer attention's weights and two branches
    assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.parametrize("sizes", [{"replica": 2, "data": 2, "context": 2}, {"expert": 2, "tensor": 2, "context": 2}])
def test_what_is_dropped_does_not_depend_on_how_an_array_is_split(sizes):
    """Else the devices of an axis, each with the same key, would drop the same places of their parts."""
    x = np.ones((ROWS, 4, LENGTH, 6), np.float32)
    weight_dropout = jax.jit(lambda x: dropout(shard(x, "batch", "heads", "time", None), 0.5, jax.random.key(7)))
    expected = np.asarray(weight_dropout(x))
    with jax.set_mesh(make_mesh(sizes)):
        found = weight_dropout(x)
        assert found.addressable_shards[0].data.size == x.size // 8
        np.testing.assert_array_equal(found, expected)


def test_identical_rows_in_a_pipeline_come_out_different():
    config, execution = replace(MODEL, layers=(c.Stack((DROPS,), 2),)), c.Execution(stage_microbatches=4)
    with jax.set_mesh(make_mesh({"stage": 2}, jax.devices()[:2])):
        model = jax.jit(lambda: Transformer(config, jax.random.key(0), execution))()
        run = jax.jit(lambda model, x: model.hidden(x, key=jax.random.key(7)))
        rows = np.asarray(run(model, np.tile(tokens()[:1], (ROWS, 1))))
    assert different(rows)


def different(rows: np.ndarray) -> bool:
    return len(np.unique(rows.reshape(len(rows), -1), axis=0)) == len(rows)


def scaled_and_dropped(scales_L: jax.Array, execution: c.Execution) -> jax.Array:
    """[B, T, D]: ones through layers that do nothing but scale and drop."""
    x_BTD = shard(jnp.ones((ROWS, LENGTH, WIDTH)), "batch", "time", None)
    slots_BT = shard(jnp.zeros((ROWS, LENGTH), jnp.int32), "batch", "time")

    def repeat(stream, forward_pass, scale, key):
        return stream._replace(x_BTD=dropout(stream.x_BTD * scale, 0.5, key))

    forward_pass = ForwardPass(slots_BT, AttentionMask(slots_BT), (), None, ())
    stream = ResidualStream(x_BTD, shard(jnp.zeros(ROWS), "batch"))
    keys = jax.random.split(jax.random.key(7), len(scales_L))
    return schedule.run_layers(repeat, stream, forward_pass, scales_L, keys, execution).x_BTD


@pytest.mark.parametrize(
    "sizes, remat",
    [
        *(({"stage": 2}, remat) for remat in schedule.REMAT),
        ({"stage": 2, "data": 2, "tensor": 2}, "full"),
        ({"stage": 4, "replica": 2}, "full"),
        ({"stage": 2, "expert": 2, "context": 2}, "full"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, dict) else part,
)
def test_every_microbatch_drops_its_own_places_and_recomputes_the_same(sizes, remat):
    """A number that is left is a product of all scales and of 2 a layer, so that a scale's gradient is known."""
    scales_L = jnp.asarray([0.5, 0.7, 0.9, 1.1], jnp.float32)
    execution = c.Execution(remat=remat, stage_microbatches=4)

    def loss(scales_L):
        x_BTD = scaled_and_dropped(scales_L, execution)
        return jnp.square(x_BTD).sum(), x_BTD

    with jax.set_mesh(make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])):
        stacked_L = jax.sharding.reshard(scales_L, jax.P("stage"))
        (total, x_BTD), gradient_L = jax.jit(jax.value_and_grad(loss, has_aux=True))(stacked_L)
    left = np.asarray(x_BTD) > 0
    assert left.mean() == pytest.approx(1 / 2**4, rel=0.3) and different(left)
    np.testing.assert_allclose(np.asarray(x_BTD)[left], np.prod(scales_L) * 2**4, rtol=1e-5)
    np.testing.assert_allclose(gradient_L, 2 * total / scales_L, rtol=1e-5)


# What is refused, and how rows are cut.


def test_a_stack_that_does_not_divide_over_the_stages_is_refused():
    config = replace(MODEL, layers=(replace(MODEL.layers[0], repeats=6),))
    with jax.set_mesh(make_mesh({"stage": 4, "data": 2})), pytest.raises(ShardingError) as error:
        jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    assert "layers of size 6 does not divide over mesh stage=4; the nearest that work are 4 and 8" in str(error.value)
    assert str(error.value).endswith("or stage of 3")


def test_the_pipeline_takes_as_many_microbatches_as_it_is_told():
    """Counted in the traced program: ticks of its loop."""
    with jax.set_mesh(make_mesh({"stage": 4, "data": 2})):
        for parts in (1, 2, 4):
            execution = c.Execution(layers="unroll", stage_microbatches=parts)
            model = jax.eval_shape(lambda: Transformer(MODEL, jax.random.key(0), execution))  # noqa: B023
            program = jax.make_jaxpr(lambda model, x: model.hidden(x))(model, tokens())
            assert f"length={parts + 3}\n" in str(program)


@given(st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None, max_examples=30)
def test_microbatches_divide_the_rows_and_a_wrong_number_is_told_those_that_do(rows, count):
    with jax.set_mesh(make_mesh({"stage": count, "data": 8 // count})):
        whole = rows * 8 // count
        chosen = schedule.microbatch_count(whole, c.Execution())
        assert rows % chosen == 0 and (chosen <= 4 * count)
        assert chosen == 1 or count > 1
        if count > 1:
            with pytest.raises(ShardingError, match=rf"those that do: 1, .*{rows}" if rows > 1 else "do: 1"):
                schedule.microbatch_count(whole, c.Execution(stage_microbatches=rows + 1))


def test_the_bubble_is_the_idle_share_of_a_stages_ticks():
    """Counted on the diagram: stage s works at ticks s .. s + M - 1 of M + S - 1."""
    for parts, count in ((1, 4), (8, 4), (3, 2), (5, 1)):
        ticks = parts + count - 1
        busy = sum(0 <= tick - stage < parts for tick in range(ticks) for stage in range(count))
        assert schedule.bubble_share(parts, count) == pytest.approx(1 - busy / (ticks * count))
