"""How an experts' load is evened without a loss, and what the rules of training do with experts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from configs import mixtral
from model import cost
from model.config import MoE, blocks
from model.layers import BalancingBias
from train import config as c
from train import optimizer, state, step
from train.check import check
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(120)
RATE, EXPERTS = 0.003, 4
BLOCK = replace(tiny.BLOCK, feed_forward=MoE(EXPERTS, 2, 24, balance_rate=RATE))
RULES = [c.AdamW(), c.Muon(), c.Lion(), c.Adafactor()]


def experiment(rule=RULES[0]):
    return tiny.experiment(BLOCK, optimizer=c.Optimizer(0.01, rule, c.Schedule("linear", warmup=5), clip=0.1))


def parameters(tree) -> list[nnx.Param]:
    return jax.tree.leaves(tree, is_leaf=optimizer.is_parameter)


def biases(tree) -> list[np.ndarray]:
    return [np.asarray(p[...]) for p in parameters(tree) if isinstance(p, BalancingBias)]


@jax.jit
def gradient_of(made, rows):
    return step.loss_and_gradient(experiment(), made, rows, None)[1]


@pytest.fixture(scope="module")
def begun():
    """The first state, its rows, and the gradient of their loss."""
    made, rows = jax.jit(lambda: state.create_state(experiment()))(), tiny.one_step(tiny.rows(1))
    return made, rows, gradient_of(made, rows)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_trains_the_experts_and_moves_each_bias_by_its_rate_against_the_excess(rule, begun):
    """Whatever the rule, its rate and its clipping."""
    first, rows, gradient = begun
    e = experiment(rule)
    made, losses = jax.jit(lambda: state.create_state(e))(), []
    run = jax.jit(lambda s, r: step.train_step(e, s, r))
    for number in range(10):
        made, metrics = run(made, rows)
        losses.append(float(metrics["train/loss"]))
        if number == 0:
            for before, now, excess in zip(*map(biases, (first.model, made.model, gradient)), strict=True):
                assert (excess > 0).any() and (excess < 0).any()
                np.testing.assert_array_equal(now - before, np.float32(-RATE) * np.sign(excess))
    assert losses[-1] < losses[0] - 0.05


def test_microbatches_count_as_their_sum(begun):
    made, rows, gradient = begun
    parts = jax.tree.map(lambda x: x.reshape(4, -1, tiny.LENGTH), rows)
    for one, other in zip(biases(gradient), biases(gradient_of(made, parts)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_biases_count_neither_in_clipping_nor_in_the_metric(begun):
    made, noise = begun[0], np.random.default_rng(0)

    def filled(p: nnx.Param, load: float) -> nnx.Param:
        values = load * noise.standard_normal(p[...].shape) if isinstance(p, BalancingBias) else np.ones(p[...].shape)
        return p.replace(jnp.asarray(values, jnp.float32))

    light, heavy = (
        jax.tree.map(lambda p, x=x: filled(p, x), made.model, is_leaf=optimizer.is_parameter) for x in (1, 1e6)
    )
    expected = np.sqrt(sum(p[...].size for p in parameters(made.model) if not isinstance(p, BalancingBias)))
    assert float(optimizer.gradient_norm(heavy)) == pytest.approx(expected, rel=1e-6)
    rule = c.AdamW(0.0, 0.0, epsilon=1e6, weight_decay=0.0)  # its update shows how large the clipped gradient was
    transform = optimizer.make_optimizer(experiment(rule).optimizer, 10)
    update = jax.jit(lambda g: transform.update(g, transform.init(made.model), made.model)[0])
    moved = [update(g) for g in (light, heavy)]
    for one, other in zip(*map(parameters, moved), strict=True):
        if not isinstance(one, BalancingBias):
            np.testing.assert_array_equal(one[...], other[...])
            assert np.abs(one[...]).max() > 0


def shares(made, rows) -> np.ndarray:
    """[L, E]: of the choices in each layer, from the bias's gradient: the excess over an even share."""
    return biases(gradient_of(made, rows))[0] + 1 / EXPERTS


def test_loss_free_balancing_evens_a_skewed_load(begun):
    """The biases start so that two experts of four take all; without balancing they keep nearly all."""
    made, rows, _ = begun
    skew = jnp.asarray([1.0, 1.0, 0.0, 0.0])

    def changed(tree, change):
        return jax.tree.map(
            lambda p: change(p) if isinstance(p, BalancingBias) else p, tree, is_leaf=optimizer.is_parameter
        )

    made = made._replace(model=changed(made.model, lambda p: p.replace(p[...] + skew)))
    run = jax.jit(lambda s, r: step.train_step(experiment(), s, r))
    spread = {}
    for rate in (0.02, 1e-9):
        now = changed(made, lambda p, rate=rate: p.replace(rate=rate))
        assert shares(now, rows).max() == pytest.approx(0.5, rel=1e-3)
        for _ in range(100):
            now, _ = run(now, rows)
        spread[rate] = shares(now, rows).max(1) * EXPERTS
    assert (spread[0.02] < 1.2).all() and (spread[1e-9] > 1.8).all(), spread


def test_muon_makes_each_experts_own_matrix_orthogonal(begun):
    made, noise = begun[0], np.random.default_rng(0)
    gradient = jax.tree.map(lambda x: jnp.asarray(noise.standard_normal(x.shape), jnp.float32), made.model)
    transform = optimizer.make_optimizer(c.Optimizer(0.01, c.Muon(), c.Schedule("constant"), clip=None), 10)
    updates = jax.jit(lambda g: transform.update(g, transform.init(made.model), made.model)[0])(gradient)
    seen = 0
    for given, update in zip(parameters(gradient), parameters(updates), strict=True):
        if "experts" not in given.axes:
            continue
        for layer, expert in np.ndindex(given[...].shape[:2]):
            seen += 1
            moved = -np.asarray(update[...][layer, expert], np.float64) / 0.01
            u, _, v = np.linalg.svd(np.asarray(given[...][layer, expert], np.float64), full_matrices=False)
            inside = u.T @ moved @ v.T / max(1.0, moved.shape[1] / moved.shape[0]) ** 0.5
            np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=5e-3)
            assert (np.abs(np.diag(inside) - 1) < 0.4).all()
    assert seen == 2 * EXPERTS * 3


@pytest.mark.parametrize(
    "field, value, wanted",
    [
        ("experts", 0, "at least 1"),
        ("active", 5, "from 1 to experts=4"),
        ("active", 0, "from 1 to experts=4"),
        ("width", 0, "at least 1"),
        ("shared", -1, "at least 0"),
        ("balance_loss", -0.1, "at least 0"),
        ("router_z_loss", float("nan"), "finite"),
        ("balance_rate", -1.0, "at least 0"),
        ("scale", 0.0, "above 0"),
    ],
)
def test_a_mixture_that_could_not_work_is_refused_in_one_line(field, value, wanted):
    made = tiny.experiment(replace(BLOCK, feed_forward=replace(BLOCK.feed_forward, **{field: value})))
    with pytest.raises(ConfigError) as error:
        check(made)
    text = str(error.value)
    assert text.startswith(f"model.layers.0.pattern.0.feed_forward.{field}: must be {wanted}") and "\n" not in text
    assert text.endswith(f"got {value}")


def test_a_token_meets_mixtrals_published_number_of_parameters():
    """12.9 B (Jiang et al. 2024, table 1): those it is multiplied with, and the embedding."""
    model = mixtral.eight_by_seven_b().model
    weights = sum(cost.block_matmul_parameters(block, model.width) for block in blocks(model))
    assert weights + 2 * model.vocab_size * model.width == pytest.approx(12.9e9, rel=2e-3)
