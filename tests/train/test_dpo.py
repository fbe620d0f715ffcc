"""Preference tuning: loss, gradient and metrics against TRL's formula written plainly in float64, on one device, on
meshes, with adapters; what a run of it learns, and how it goes on."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from data.config import Source
from data.rows import Rows
from launch.machine import auto
from model import cost
from model.config import MLP, Attention, Block, LoRA, Rope
from model.sharding import ShardingError, make_mesh
from model.transformer import Transformer
from train import base, feed, objective, state, step
from train import config as c
from train.check import check
from train.checkpoint import Checkpoints
from train.config import DPO, Experiment
from train.dpo import LOSSES, METRICS
from train.fields import ConfigError, replace_at
from train.program import Program
from train.run import count_parameters

pytestmark = pytest.mark.timeout(200)
PAIRS = Source("pairs.jsonl", "chosen", "prompt", rejected="rejected")
MESHES = [{"data": 4, "tensor": 2}, pytest.param({"stage": 2, "context": 2, "data": 2}, marks=pytest.mark.slow(12))]
BLOCK = Block(Attention(2, 2, 8, rope=Rope()), MLP(32))
CHOICES = [
    DPO(),
    DPO(0.5, label_smoothing=0.2),
    DPO(0.3, "ipo"),
    DPO(0.3, "ipo", normalize_length=True),  # TRL's loss_type="ipo"
    DPO(2.0, normalize_length=True),
]


def experiment(choice: DPO = CHOICES[1], dtype: str = "float32", **fields) -> Experiment:
    made = tiny.experiment(BLOCK, objective=choice, **fields)
    data = replace(made.data, source=PAIRS, packing="pairs")
    return replace(made, data=data, execution=replace(made.execution, dtype=dtype))


def pair_rows(steps: int = 1, seed: int = 0) -> Rows:
    """Rows [steps, 1, B, T]: both halves of a pair have the same prompt, and responses of a length of their own."""
    random = np.random.default_rng(seed)
    shape = (steps, 1, tiny.BATCH, tiny.LENGTH)
    text = random.integers(0, tiny.VOCAB, (*shape[:3], tiny.LENGTH + 1)).astype(np.int32)
    prompt = np.repeat(random.integers(1, 5, (steps, 1, tiny.BATCH // 2)), 2, -1)[..., None]
    text[..., 1::2, :5] = np.where(np.arange(5) < prompt[..., 1::2, :], text[..., ::2, :5], text[..., 1::2, :5])
    size = prompt + random.integers(1, tiny.LENGTH - 5, shape[:3])[..., None]
    column = np.arange(tiny.LENGTH)
    real = column < size
    rows = Rows(text[..., :-1], text[..., 1:], real, np.broadcast_to(column, shape), real & (column >= prompt - 1))
    return Rows(*(x.astype(np.int32) for x in rows[:-1]), rows.weights.astype(np.float32))


@functools.cache
def first_state(made: Experiment) -> state.TrainState:
    """A state whose reference has other weights than what is trained."""
    begun = jax.jit(lambda: state.create_state(made))()
    other = jax.jit(lambda: state.random_weights(replace(made, seed=7)))()
    return begun._replace(frozen=other) if made.lora is None else begun


def log_probabilities(model: Transformer, rows: Rows, mean: bool) -> jax.Array:
    """Of every row [B]: log_softmax, gathered at the labels and masked, as TRL's concatenated_forward has it."""
    logits = model.logits(model.hidden(rows.tokens, rows.segments, rows.positions))
    per_token = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), jnp.asarray(rows.targets)[..., None], -1)[..., 0]
    total = jnp.where(rows.weights > 0, per_token, 0).sum(-1)
    return total / rows.weights.sum(-1) if mean else total


def trl_losses(logits, choice: DPO):
    """By TRL's DPOTrainer.dpo_loss: `sigmoid` with label_smoothing, and `ipo`."""
    if choice.loss == "ipo":
        return (logits - 1 / (2 * choice.beta)) ** 2
    numpy = np if isinstance(logits, np.ndarray) else jnp
    right, wrong = (-numpy.logaddexp(0, -sign * choice.beta * logits) for sign in (1, -1))  # log sigmoid
    return -right * (1 - choice.label_smoothing) - wrong * choice.label_smoothing


def trl_loss(model: Transformer, reference: Transformer, rows: Rows, choice: DPO):
    """The mean loss and the metrics of pairs."""
    policy, ref = (log_probabilities(m, rows, choice.normalize_length) for m in (model, reference))
    losses = trl_losses((policy[::2] - policy[1::2]) - (ref[::2] - ref[1::2]), choice)
    chosen, rejected = (choice.beta * (policy - ref)[i::2] for i in (0, 1))
    values = chosen, rejected, chosen > rejected, chosen - rejected, policy[::2], policy[1::2]
    return losses.mean(), {name: value.mean() for name, value in zip(METRICS, values, strict=True)}


@pytest.mark.parametrize("choice", CHOICES, ids=range(len(CHOICES)))
def test_losses_of_margins_are_trls_in_float64(choice):
    margins = np.concatenate([np.linspace(-30, 30, 41), [0.0, 1e-4]])
    found = LOSSES[choice.loss](jnp.asarray(margins, jnp.float32), choice)
    np.testing.assert_allclose(found, trl_losses(margins, choice), rtol=1e-5, atol=1e-6)
    extreme = LOSSES[choice.loss](jnp.asarray([-1e4, 1e4]), choice)
    assert np.isfinite(extreme).all()


@pytest.mark.parametrize(
    "choice, microbatches",
    [
        pytest.param(CHOICES[1], 2, id="sigmoid"),
        pytest.param(CHOICES[3], 1, id="ipo", marks=pytest.mark.slow(9)),
    ],
)
def test_loss_gradient_and_metrics_are_trls_in_float64(choice, microbatches):
    with jax.enable_x64(True):
        made = experiment(choice, "float64")
        now = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, first_state(made))
        rows = tiny.one_step(pair_rows())
        one = jax.tree.map(lambda x: x[0], rows)
        (value, expected), slope = jax.jit(
            jax.value_and_grad(lambda model: trl_loss(model, now.frozen, one, choice), has_aux=True)
        )(now.model)
        parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, tiny.LENGTH), rows)
        metrics, gradient = jax.jit(lambda now, rows: step.loss_and_gradient(made, now, rows, None))(now, parts)
        assert metrics.keys() == {f"train/{name}" for name in ("loss", *METRICS)}
        for name, score in {"loss": value, **expected}.items():
            np.testing.assert_allclose(metrics[f"train/{name}"], score, rtol=1e-6)
        assert tiny.distance(gradient, slope) < 1e-9
    assert 0 < expected["rewards/accuracies"] < 1 and abs(expected["rewards/margins"]) > 1e-3


def assert_close(found, expected) -> None:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    assert all(np.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in pairs), (found, expected)


def test_prompts_padding_and_other_pairs_change_nothing():
    made, rows = experiment(), jax.tree.map(lambda x: x[0, 0], pair_rows())
    now, goal = first_state(made), objective.make_objective(made)
    sums = jax.jit(lambda rows: goal.sum_losses(now.model, now.frozen, rows))
    before = sums(rows)
    padding = rows.segments == 0
    changed = rows._replace(
        targets=np.where(rows.weights > 0, rows.targets, (rows.targets + 1) % tiny.VOCAB),
        tokens=np.where(padding, (rows.tokens + 1) % tiny.VOCAB, rows.tokens),
    )
    assert_close(sums(changed), before)
    first, rest = (jax.tree.map(lambda x, part=part: x[part], rows) for part in (slice(2), slice(2, None)))
    nothing = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), first)  # a pair that fills up a batch
    assert_close(jax.tree.map(jnp.add, sums(first), sums(rest)), before)
    assert_close(sums(nothing), sums(first))
    assert sums(nothing).weight == 1


def test_every_field_of_an_objective_matters():
    def lowered(choice) -> str:
        made = experiment(choice) if isinstance(choice, DPO) else tiny.experiment()
        program = jax.jit(lambda rows: step.train_step(made, state.create_state(made), rows))
        return program.lower(tiny.one_step(pair_rows())).as_text()

    assert len({lowered(choice) for choice in (c.LikelihoodLoss(), *CHOICES)}) == 1 + len(CHOICES)


def learn(made: Experiment, steps: int = 30):
    """(state before, state after, metrics) of training on eight pairs over and over."""
    rows = jax.tree.map(lambda x: np.repeat(x, steps, 0), pair_rows())
    before = jax.jit(lambda: state.create_state(made))()
    after, metrics = jax.jit(functools.partial(step.train_steps, made))(before, rows)
    return before, after, jax.tree.map(np.asarray, metrics)


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(None, id="all"),
        pytest.param(LoRA(4, 8.0, ("*.query", "*.down", "output")), id="lora", marks=pytest.mark.slow(6)),
    ],
)
def test_training_ranks_the_pairs_and_leaves_the_reference_as_it_was(lora):
    made = experiment(DPO(), lora=lora, optimizer=c.Optimizer(0.01, c.AdamW(weight_decay=0.0), c.Schedule("constant")))
    before, after, metrics = learn(made)
    assert metrics["train/loss"][0] == pytest.approx(np.log(2), abs=1e-6)  # the reference is what is trained
    assert not any(metrics[f"train/rewards/{name}"][0] for name in ("chosen", "rejected", "accuracies", "margins"))
    assert metrics["train/rewards/accuracies"][-1] > 0.9 and metrics["train/loss"][-1] < 0.3
    gain = {
        name: metrics[f"train/logps/{name}"][-1] - metrics[f"train/logps/{name}"][0] for name in ("chosen", "rejected")
    }
    assert gain["rejected"] < gain["chosen"] - 5
    reward = metrics["train/rewards/chosen"][-1] - metrics["train/rewards/rejected"][-1]
    assert reward == pytest.approx(0.1 * (gain["chosen"] - gain["rejected"]), rel=1e-3)  # beta, and the first weights
    assert tiny.distance(after.frozen, before.frozen) == 0
    assert isinstance(after.model, Transformer) == (lora is None) and isinstance(after.evaluation_model, Transformer)


def test_with_adapters_the_reference_is_the_base_without_them():
    made = experiment(lora=LoRA(4, 8.0, ("*.query", "*.down")))
    now = first_state(made)
    adapters = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(3), x.shape), now.model)
    rows = tiny.one_step(pair_rows())
    one = jax.tree.map(lambda x: x[0], rows)
    value, slope = jax.jit(jax.value_and_grad(lambda a: trl_loss(now.whole(a), now.frozen, one, made.objective)[0]))(
        adapters
    )
    metrics, gradient = jax.jit(lambda now: step.loss_and_gradient(made, now, rows, None))(now._replace(model=adapters))
    assert float(metrics["train/loss"]) == pytest.approx(float(value), rel=1e-5)
    assert abs(float(value) - np.log(2)) > 1e-3 and tiny.distance(gradient, slope) < 1e-4
    assert count_parameters(now.frozen) == count_parameters(jax.eval_shape(lambda: state.random_weights(made)))


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_steps_on_a_mesh_are_those_of_one_device(sizes):
    rows = pair_rows(2)
    with jax.enable_x64(True):
        made = experiment(dtype="float64", optimizer=c.Optimizer(1e-3))

        def trained(rows: Rows):
            create = jax.jit(lambda: state.create_state(made))
            wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, create())
            after, metrics = jax.jit(functools.partial(step.train_steps, made))(wide, rows)
            return jax.tree.map(np.asarray, (after.model, after.frozen)), jax.tree.map(np.asarray, metrics), after

        expected, expected_metrics, _ = trained(rows)
        with jax.set_mesh(make_mesh(sizes)):
            source = lambda step, start, stop: jax.tree.map(lambda x: x[step, 0, start:stop], rows)  # noqa: E731
            found, metrics, after = trained(feed.training_rows(source, 0, 2, 1, tiny.BATCH, tiny.LENGTH))
            shardings = [jax.tree.map(lambda x: x.sharding, tree) for tree in (after.model, after.frozen)]
    assert tiny.distance(found, expected) < 1e-5
    for name, values in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.ptp(metrics["train/loss"]) > 1e-4
    assert jax.tree.leaves(shardings[0]) == jax.tree.leaves(shardings[1])
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(shardings[1]))


def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path):
    """Weights and memory from a checkpoint, the reference from beside it."""
    made = experiment(optimizer=c.Optimizer(0.01))
    run = jax.jit(lambda s, r: step.train_step(made, s, r)[0])
    begun, rows = jax.jit(lambda: state.create_state(made))(), pair_rows(4)

    def steps(now, numbers):
        for number in numbers:
            now = run(now, jax.tree.map(lambda x: x[number], rows))  # noqa: B023
        return now

    whole, half = steps(begun, range(4)), steps(begun, range(2))
    saved = Checkpoints(tmp_path, keep_last=1, keep_best=0)
    base.write_base(tmp_path, half.frozen)
    saved.save(2, half, {}, None)
    saved.wait()
    assert {path.name for path in (saved.folder / "2").iterdir()} >= {"model", "optimizer"}
    restored = saved.restore(2, half)._replace(frozen=base.read_base(tmp_path, half.frozen))
    saved.close()
    found = steps(restored, range(2, 4))
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(whole)))
    assert not all(map(np.array_equal, jax.tree.leaves(whole.model), jax.tree.leaves(whole.frozen)))


def test_scores_are_means_over_all_pairs():
    made = experiment()
    goal, now = objective.make_objective(made), first_state(made)
    rows = [jax.tree.map(lambda x: x[0, 0], pair_rows(seed=seed)) for seed in (0, 1)]
    rows[1] = jax.tree.map(lambda x: np.concatenate([x[:2], np.zeros_like(x[2:])]), rows[1])
    compute = jax.jit(goal.batch_sums)
    scores = goal.scores((compute(now.model, now.frozen, each) for each in rows), 1)
    counted = jax.tree.map(lambda a, b: np.concatenate([a, b[:2]]), *rows)
    value, expected = jax.jit(lambda: trl_loss(now.model, now.frozen, counted, made.objective))()
    assert scores.keys() == {"loss", *METRICS}
    for name, score in {"loss": value, **expected}.items():
        np.testing.assert_allclose(scores[name], score, rtol=1e-4, atol=1e-5)
    line = goal.describe({f"eval/{name}": score for name, score in scores.items()})
    assert re.fullmatch(r"loss \d\.\d{4} nats a pair, \d+\.\d% of pairs ranked right, reward margin -?\d\.\d{4}", line)


def test_memory_and_work_count_the_reference():
    made, plain = experiment(), tiny.experiment(BLOCK)
    assert auto.optimizer_numbers(made) == pytest.approx(auto.optimizer_numbers(plain) + 1)
    forward = cost.forward_flops(plain.model, tiny.LENGTH)
    assert objective.training_flops(made) == objective.training_flops(plain) + forward == 4 * forward


PLAIN = tiny.experiment()
REFUSED = {
    "packing": (
        replace(experiment(), data=replace(experiment().data, packing="padding")), "data.packing: must be pairs",
    ),
    "no rejected": (
        replace(experiment(), data=replace(experiment().data, source=replace(PAIRS, rejected=None))),
        "data.source.rejected: must be the name of the worse response's field",
    ),
    "rejected is chosen": (
        replace(experiment(), data=replace(experiment().data, source=replace(PAIRS, rejected="chosen"))),
        "data.source.rejected: must be another field",
    ),
    "validation": (
        replace(experiment(), data=replace(experiment().data, validation_source=Source("v.jsonl"))),
        "data.validation_source.rejected: must be the name",
    ),
    "likelihood of pairs": (
        replace(PLAIN, data=experiment().data), "data.packing: must be another one without objective=DPO, got pairs",
    ),
    "likelihood of rejected": (
        replace(PLAIN, data=replace(PLAIN.data, source=PAIRS)), "data.source.rejected: must be null",
    ),
    "odd": (experiment(batch_size=7), "batch_size: 7 rows in microbatches=1 are no whole pairs of rows; try 6 or 8"),
    "microbatches": (experiment(microbatches=8), "batch_size: 8 rows in microbatches=8 are no whole .*; try 16"),
    "beta": (experiment(DPO(0.0)), "objective.beta: must be above 0, got 0.0"),
    "smoothing": (experiment(DPO(label_smoothing=0.5)), "objective.label_smoothing: must be from 0 to below 0.5"),
    "ipo": (experiment(DPO(loss="ipo", label_smoothing=0.1)), "objective.label_smoothing: must be 0 with objective.l"),
    "z_loss": (experiment(z_loss=0.1), "z_loss: must be 0 with objective=DPO, got 0.1"),
}  # fmt: skip


@pytest.mark.parametrize("made, line", REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_tuned_is_refused_in_one_line(made, line):
    with pytest.raises(ConfigError, match=line) as error:
        check(made)
    assert "\n" not in str(error.value)


def test_what_can_be_tuned_is_not_refused_and_a_command_line_says_it():
    for made in (experiment(), experiment(microbatches=2), PLAIN):
        check(made)
    assert replace_at(PLAIN, "objective", "dpo").objective == DPO()
    assert replace_at(PLAIN, "objective", '{"loss": "ipo", "beta": 0.5}').objective == DPO(0.5, "ipo")
    assert replace_at(experiment(), "objective.beta", "0.3").objective.beta == 0.3


@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs eight devices: unset XLA_FLAGS for tests/conftest.py")
def test_a_pair_is_not_parted_by_devices():
    with pytest.raises(ShardingError) as error:
        Program(experiment(mesh=c.Mesh(data=8))).check_fits()
    assert str(error.value) == (
        "batch_size: 8 rows are no whole pairs on each of the 8 devices that share them (microbatches=1); "
        "the nearest that works is 16"
    )
    Program(experiment(mesh=c.Mesh(data=4, tensor=2))).check_fits()
