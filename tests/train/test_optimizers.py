"""Update rules against float64 NumPy and PyTorch, schedules against their formulas, Muon against the SVD."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from model.config import MLP, Norm
from model.transformer import Transformer
from train import config as c
from train import optimizer, state
from train.adafactor import scale_by_adafactor
from train.learning_rate import learning_rate
from train.muon import orthogonalize

STEPS, RATE = 5, 0.01
BLOCK = replace(tiny.BLOCK, feed_forward=MLP(64, gated=True, bias=True), norm=Norm("layer"))


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Weights that none of the rules leaves alone: zeros become random numbers."""
    made = jax.jit(lambda: Transformer(tiny.experiment(BLOCK).model, jax.random.key(0)))()
    leaves, structure = jax.tree.flatten(made)
    noise = np.random.default_rng(1)
    return structure.unflatten([leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32) for leaf in leaves])


def gradients(model, step: int):
    leaves, structure = jax.tree.flatten(model)
    noise = np.random.default_rng(100 + step)
    return structure.unflatten([noise.standard_normal(leaf.shape, np.float32) for leaf in leaves])


def trained(model, settings: c.Optimizer, steps: int = STEPS):
    """The model after `steps` updates with those gradients."""
    transform = optimizer.make_optimizer(settings, steps)
    memory = transform.init(model)
    update = jax.jit(transform.update)
    for step in range(steps):
        updates, memory = update(gradients(model, step), memory, model)
        model = optax.apply_updates(model, updates)
    return model


def parameters(model) -> list[nnx.Param]:
    return jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, nnx.Param))


def settings(rule, **fields) -> c.Optimizer:
    return c.Optimizer(RATE, rule, c.Schedule("constant"), **{"clip": None, **fields})


def by_hand(model, rule_of, clip: float | None = None) -> list[np.ndarray]:
    """float64: `rule_of(parameter)` makes a rule: (gradient, weight, step from 1) -> direction."""
    found = [np.asarray(p[...], np.float64) for p in parameters(model)]
    rules = [rule_of(p) for p in parameters(model)]
    for step in range(STEPS):
        given = [np.asarray(g, np.float64) for g in jax.tree.leaves(gradients(model, step))]
        norm = math.sqrt(sum((g**2).sum() for g in given))
        scale = 1.0 if clip is None else min(1.0, clip / norm)
        directions = [rule(g * scale, w, step + 1) for rule, g, w in zip(rules, given, found, strict=True)]
        found = [w - RATE * d for w, d in zip(found, directions, strict=True)]
    return found


def adamw(config: c.AdamW, decays: bool):
    """Loshchilov & Hutter 2019, algorithm 2, with the decay multiplied by the rate."""
    m = v = 0.0

    def rule(g, w, t):
        nonlocal m, v
        m = config.beta1 * m + (1 - config.beta1) * g
        v = config.beta2 * v + (1 - config.beta2) * g * g
        step = (m / (1 - config.beta1**t)) / (np.sqrt(v / (1 - config.beta2**t)) + config.epsilon)
        return step + (config.weight_decay * w if decays else 0)

    return rule


def lion(config: c.Lion, decays: bool):
    """Chen et al. 2023, algorithm 2."""
    m = 0.0

    def rule(g, w, _):
        nonlocal m
        step = np.sign(config.beta1 * m + (1 - config.beta1) * g)
        m = config.beta2 * m + (1 - config.beta2) * g
        return step + (config.weight_decay * w if decays else 0)

    return rule


def is_matrix(parameter: nnx.Param) -> bool:
    """Told by name: all that is no matrix is a bias, or the scale of a norm."""
    names = [axis for axis in parameter.axes if axis != "layers"]
    return "vocab" in names or ("width" in names and len(names) > 1)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_adamw_decays_matrices_and_nothing_else(model, clip):
    rule = c.AdamW(beta1=0.8, beta2=0.97, epsilon=1e-6, weight_decay=0.3)
    expected = by_hand(model, lambda p: adamw(rule, is_matrix(p)), clip)
    found = trained(model, settings(rule, clip=clip))
    assert {is_matrix(p) for p in parameters(model)} == {True, False}
    assert tiny.distance(found, expected) < 1e-6


def test_adamw_is_pytorchs(model):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (README, Tests)")
    theirs = [torch.nn.Parameter(torch.from_numpy(np.array(p[...]))) for p in parameters(model)]
    pairs = list(zip(theirs, map(is_matrix, parameters(model)), strict=True))
    groups = [
        {"params": [w for w, m in pairs if m == decays], "weight_decay": 0.1 * decays} for decays in (True, False)
    ]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    for step in range(STEPS):
        for weight, gradient in zip(theirs, jax.tree.leaves(gradients(model, step)), strict=True):
            weight.grad = torch.from_numpy(gradient)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adam.step()
    found = trained(model, settings(c.AdamW(), clip=1.0))
    assert tiny.distance(found, [w.detach().numpy() for w in theirs]) < 1e-5


def test_lion(model):
    rule = c.Lion(beta1=0.85, beta2=0.98, weight_decay=0.2)
    expected = by_hand(model, lambda p: lion(rule, is_matrix(p)))
    assert tiny.distance(trained(model, settings(rule)), expected) < 1e-6


def test_adafactor_factors_large_matrices():
    """Shazeer & Stern 2018, algorithm 4 without its own rate: rows and columns of the mean square are kept."""
    random = np.random.default_rng(0)
    matrix = nnx.Param(jnp.asarray(random.standard_normal((130, 140), np.float32)), axes=("width", "ff"), input_axes=1)
    transform = optimizer.make_optimizer(settings(c.Adafactor(decay=0.8)), STEPS)
    memory, weight = transform.init(matrix), np.asarray(matrix[...], np.float64)
    assert max(x.size for x in jax.tree.leaves(memory)) <= 140
    rows, columns = np.zeros(130), np.zeros(140)
    for step in range(STEPS):
        g = random.standard_normal((130, 140)).astype(np.float32)
        updates, memory = transform.update(matrix.replace(jnp.asarray(g)), memory, matrix)
        matrix = optax.apply_updates(matrix, updates)
        decay = 1 - (step + 1.0) ** -0.8
        square = g.astype(np.float64) ** 2 + 1e-30
        rows = decay * rows + (1 - decay) * square.mean(1)
        columns = decay * columns + (1 - decay) * square.mean(0)
        weight = weight - RATE * g / np.sqrt(np.outer(rows, columns) / rows.mean())
    assert tiny.relative(np.asarray(matrix[...], np.float64), weight) < 1e-5


MATRICES = {  # as the layers declare them: axes, shape, inputs; and the shape of one matrix
    "plain": (("width", "feed_forward"), (130, 140), 1, (130, 140)),
    "query": (("layers", "width", "heads", "head_width"), (2, 30, 3, 8), 1, (30, 24)),
    "output": (("layers", "heads", "head_width", "width"), (2, 3, 8, 30), 2, (24, 30)),
    "experts": (("layers", "experts", "width", "feed_forward"), (2, 3, 12, 20), 1, (12, 20)),
    "vector": (("layers", "features"), (2, 30), 0, (30,)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_adafactor_factors_every_matrix_of_a_stack_as_optax_factors_that_matrix_alone(name):
    axes, shape, inputs, matrix = MATRICES[name]
    ours, theirs = scale_by_adafactor(c.Adafactor(0.8)), optax.scale_by_factored_rms(min_dim_size_to_factor=1)
    parameter = nnx.Param(jnp.zeros(shape), axes=axes, input_axes=inputs)
    alone = list(jnp.zeros((math.prod(shape) // math.prod(matrix), *matrix)))
    memory, their_memory = ours.init(parameter), theirs.init(alone)
    if inputs:
        assert sum(x.size for x in jax.tree.leaves(memory)) == 1 + len(alone) * sum(matrix)
    for step in range(3):
        gradient = 10.0**step * np.random.default_rng(step).standard_normal(shape).astype(np.float32)
        found, memory = ours.update(parameter.replace(jnp.asarray(gradient)), memory)
        expected, their_memory = theirs.update(list(gradient.reshape(-1, *matrix)), their_memory, alone)
        np.testing.assert_allclose(found[...].reshape(-1, *matrix), np.stack(expected), rtol=2e-5)


def test_adafactor_leaves_alone_what_has_no_gradient_beside_what_has_a_large_one():
    """A row of zeros, as of a token that did not come up: optax's factor is infinite there, and 0 times that NaN."""
    parameter = nnx.Param(jnp.zeros((4, 3)), axes=("vocab", "width"), input_axes=1)
    gradient = parameter.replace(jnp.asarray([[0.0] * 3, [1e9] * 3, [1e-9] * 3, [0.0, 1.0, 0.0]]))
    transform = scale_by_adafactor(c.Adafactor())
    found, _ = jax.jit(transform.update)(gradient, transform.init(parameter))
    assert np.isfinite(found[...]).all() and not found[...][0].any() and found[...][1].all()


# Muon


def as_matrix(parameter: nnx.Param, layer: int, value) -> np.ndarray:
    value = np.asarray(value[layer], np.float64)
    return value.reshape(int(np.prod(value.shape[: parameter.input_axes])), -1)


def test_muon_orthogonalises_each_layers_matrices_and_adamw_does_the_rest(model):
    """The first step, where momentum is the gradient: with Nesterov's look ahead it points the same way."""
    rule = c.Muon(adam=c.AdamW(weight_decay=0.0), adam_rate=0.3)
    found = trained(model, settings(rule), steps=1)
    given = jax.tree.leaves(gradients(model, 0))
    seen = set()
    for before, after, gradient in zip(parameters(model), parameters(found), given, strict=True):
        moved = (np.asarray(before[...], np.float64) - np.asarray(after[...], np.float64)) / RATE
        if "layers" in before.axes and is_matrix(before):
            seen.add("muon")
            for layer in range(moved.shape[0]):
                u, values, v = np.linalg.svd(as_matrix(before, layer, gradient), full_matrices=False)
                matrix = as_matrix(before, layer, moved)
                expected = math.sqrt(max(1.0, matrix.shape[1] / matrix.shape[0])) * quintic(values)
                np.testing.assert_allclose(matrix, u * expected @ v, atol=1e-3)
                assert (quintic(values)[values > values[0] / 20] > 0.6).all() and quintic(values).max() < 1.3
        else:
            seen.add("adam")
            np.testing.assert_allclose(moved, 0.3 * np.sign(gradient), rtol=1e-2)  # Adam's first step
    assert seen == {"muon", "adam"}


def quintic(values: np.ndarray) -> np.ndarray:
    """Jordan's polynomial, five times, on the singular values of a matrix of norm 1."""
    values = values / np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


def test_newton_schulz_is_a_polynomial_of_the_singular_values():
    random = np.random.default_rng(0)
    stack = random.standard_normal((3, 24, 40))
    found = np.asarray(orthogonalize(jnp.asarray(stack, jnp.float32), 5), np.float64)
    for matrix, transposed in zip(stack, found, strict=True):
        u, values, v = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(transposed, u * quintic(values) @ v, atol=2e-5)


def test_muons_momentum_and_decay(model):
    """Two steps by hand, with the code's own orthogonalisation (tested above)."""
    rule = c.Muon(momentum=0.9, nesterov=True, weight_decay=0.2)
    found = parameters(trained(model, settings(rule), steps=2))
    index = next(i for i, p in enumerate(parameters(model)) if p.axes == ("layers", "feed_forward", "width"))
    before = parameters(model)[index]
    weight, momentum = np.asarray(before[...], np.float64), 0.0
    for step in range(2):
        g = np.asarray(jax.tree.leaves(gradients(model, step))[index], np.float64)
        momentum = 0.9 * momentum + g
        transposed = orthogonalize(jnp.asarray(0.9 * momentum + g, jnp.float32), rule.iterations)
        weight = weight - RATE * (np.asarray(transposed, np.float64) * max(1, 32 / 64) ** 0.5 + 0.2 * weight)
    assert tiny.relative(np.asarray(found[index][...], np.float64), weight) < 1e-4


# Schedules


@pytest.mark.parametrize("step", [0, 1, 99, 100, 101, 1234, 1999])
def test_cosine_is_nanogpts(step):
    """nanoGPT's get_lr: rate 1e-3, min 1e-4, warm-up 100, 2000 steps."""
    if step < 100:
        expected = 1e-3 * (step + 1) / 101
    else:
        expected = 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / 1900)) * 9e-4
    found = learning_rate(c.Schedule("cosine", warmup=100, final=0.1), 1e-3, 2000, step)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "schedule, shares",
    [
        (c.Schedule("linear", final=0.0), {0: 1.0, 50: 0.5, 99: 0.01}),
        (c.Schedule("linear", warmup=9, final=0.2), {0: 0.1, 8: 0.9, 9: 1.0, 100: 0.2}),
        (c.Schedule("constant", warmup=4), {0: 0.2, 4: 1.0, 99: 1.0}),
        (c.Schedule("wsd", final=0.0, decay=0.2), {0: 1.0, 79: 1.0, 80: 1.0, 90: 0.5, 99: 0.05}),
        (c.Schedule("wsd", warmup=1, final=0.1, decay=0.5), {0: 0.5, 50: 1.0, 75: 0.55, 100: 0.1}),
    ],
)
def test_other_shapes(schedule, shares):
    for step, share in shares.items():
        assert float(learning_rate(schedule, 2.0, 100, step)) == pytest.approx(2 * share, rel=1e-5), step


def test_the_rate_reaches_the_weights(model):
    schedule = c.Schedule("linear", final=0.0)
    found = trained(model, replace(settings(c.Lion(weight_decay=0.0)), schedule=schedule), steps=4)
    one = trained(model, replace(settings(c.Lion(weight_decay=0.0)), schedule=schedule, peak_rate=2 * RATE), steps=4)
    for before, a, b in zip(*map(parameters, (model, found, one)), strict=True):
        moved = np.abs(np.asarray(a[...]) - np.asarray(before[...])).max()
        assert moved <= RATE * (1 + 0.75 + 0.5 + 0.25) * 1.001
        np.testing.assert_allclose(b[...] - before[...], 2 * (a[...] - before[...]), atol=1e-6)


def test_every_rule_has_a_state_that_is_born_where_its_parameters_are():
    for rule in (c.AdamW(), c.Muon(), c.Lion(), c.Adafactor()):
        made = tiny.experiment(optimizer=c.Optimizer(0.01, rule, average=0.9))
        shapes = jax.eval_shape(lambda made=made: state.create_state(made))
        assert shapes.average is not None and jax.tree.leaves(shapes.optimizer)
