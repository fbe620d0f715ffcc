"""The matrix: ten steps on meshes of eight devices, against one device. Dense, mixture of experts and recurrent, packed
rows."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from model import config as c
from model.sharding import make_mesh
from train import config, feed, optimizer, state, step

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py"),
]
STEPS, ROWS, LAYERS = 10, 16, 4
EXPERTS = c.MoE(8, 2, 16, shared=16, balance_loss=0.01, router_z_loss=0.001, balance_rate=0.01)
BLOCKS = {"dense": tiny.BLOCK, "moe": replace(tiny.BLOCK, feed_forward=EXPERTS)}
BLOCKS |= {"recurrent": c.Block(c.LSTM(), None, placement="plain")}
QUICK = {  # the others are slow ones
    "dense": [
        {"data": 8}, {"context": 8}, {"replica": 2, "data": 2, "tensor": 2}, {"stage": 4, "data": 2},
        {"stage": 2, "context": 2, "tensor": 2},
    ],
    "moe": [
        {"expert": 2, "data": 2, "tensor": 2}, {"stage": 2, "expert": 2, "data": 2},
        {"replica": 2, "expert": 2, "context": 2}, {"context": 2, "tensor": 2, "data": 2},
    ],
    "recurrent": [{"replica": 2, "stage": 2, "expert": 2}, {"tensor": 2, "data": 4}],
}  # fmt: skip
MESHES = [
    {"replica": 8}, {"tensor": 2, "data": 4}, {"expert": 8}, {"expert": 4, "context": 2},
    {"replica": 2, "stage": 2, "expert": 2}, {"context": 4, "data": 2}, {"stage": 4, "tensor": 2},
    *(sizes for kind in ("dense", "moe") for sizes in QUICK[kind]),
]  # fmt: skip
MATRIX = [
    pytest.param(kind, sizes, id=f"{kind} {' '.join(f'{axis}={size}' for axis, size in sizes.items())}",
                 marks=[] if sizes in QUICK[kind] else pytest.mark.slow(12))
    for kind in BLOCKS for sizes in MESHES if kind != "recurrent" or "context" not in sizes
]  # fmt: skip


def experiment(kind: str, **execution) -> config.Experiment:
    made = tiny.experiment(BLOCKS[kind], LAYERS, batch_size=ROWS, optimizer=config.Optimizer(1e-3), z_loss=1e-3)
    return replace(made, execution=replace(made.execution, dtype="float64", **execution))


def trained(made: config.Experiment, seed: int = 0) -> dict:
    """Losses, gradients of ten steps and the weights they lead to, in float64 on the current mesh."""
    rows = tiny.rows(STEPS, batch=ROWS, seed=seed)
    if not jax.sharding.get_abstract_mesh().empty:
        source = lambda step, start, stop: jax.tree.map(lambda x: x[step, 0, start:stop], made_rows)  # noqa: E731
        made_rows, rows = rows, None
        rows = feed.training_rows(source, 0, STEPS, 1, ROWS, tiny.LENGTH)
    transform = optimizer.make_optimizer(made.optimizer, made.steps)

    def one(now, rows):
        metrics, gradient = step.loss_and_gradient(made, now, rows, None)
        updates, memory = transform.update(gradient, now.optimizer, now.model)
        model = optax.apply_updates(now.model, updates)
        return state.TrainState(now.step + 1, model, memory, None), (metrics["train/loss"], gradient)

    begun = jax.block_until_ready(jax.jit(lambda: jax.tree.map(wide, state.create_state(made)))())
    end, (losses, gradients) = jax.jit(lambda begun, rows: jax.lax.scan(one, begun, rows))(begun, rows)
    return jax.tree.map(np.asarray, {"losses": losses, "gradients": gradients, "weights": end.model})


def wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


@functools.cache
def alone(kind: str) -> dict:
    return trained(experiment(kind))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind, sizes", MATRIX)
def test_ten_steps_on_any_mesh_are_those_of_one_device(kind, sizes):
    """Losses, gradients and weights, relative to each tensor's norm; -s prints how far they are."""
    expected = alone(kind)
    with jax.set_mesh(make_mesh(sizes)):
        found = trained(experiment(kind))
    far = {name: tiny.distance(found[name], expected[name]) for name in expected}
    print(kind, sizes, *(f"{name} {value:.1e}" for name, value in far.items()))
    assert np.ptp(expected["losses"]) > 1e-3
    assert max(far.values()) < 1e-5, far


@pytest.mark.parametrize("sizes", [{"stage": 2, "expert": 2, "tensor": 2}, {"data": 2, "context": 2, "tensor": 2}])
def test_adafactor_is_the_same_on_any_mesh_and_its_means_lie_where_their_matrices_do(sizes):
    made = replace(experiment("moe"), optimizer=config.Optimizer(1e-3, config.Adafactor()))
    transform = optimizer.make_optimizer(made.optimizer, made.steps)
    shapes = jax.eval_shape(lambda: state.create_state(made)).model
    given = [np.random.default_rng(i).standard_normal(x.shape) for i, x in enumerate(jax.tree.leaves(shapes))]

    def updated():
        begun = jax.jit(lambda: jax.tree.map(wide, state.create_state(made)))()
        places = [x.sharding for x in jax.tree.leaves(begun.model)]
        slopes = jax.tree.unflatten(jax.tree.structure(begun.model), jax.device_put(given, places))
        return jax.jit(transform.update)(slopes, begun.optimizer, begun.model)

    expected = jax.tree.map(np.asarray, updated())
    with jax.set_mesh(make_mesh(sizes)):
        found = updated()
    assert tiny.distance(found, expected) < 1e-9
    rows = [x for path, x in jax.tree_util.tree_leaves_with_path(found[1]) if ".rows" in jax.tree_util.keystr(path)]
    assert any(not x.sharding.is_fully_replicated for x in rows)
