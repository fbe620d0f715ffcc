"""The loss and the step: against float64, against themselves cut another way, and against broken rows."""

import contextlib
import functools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from data.documents import Documents
from data.rows import Rows
from data.windows import scoring_rows
from model import config as c_model
from model.sharding import make_mesh
from train import config as c
from train import evaluate, feed, loss, state, step
from train.checkpoint import Checkpoints


def stepped(experiment, rows: Rows, steps: int = 1):
    """(state, metrics) after `steps` dispatches of one step on rows [M, B, T]."""
    made = jax.jit(lambda: state.create_state(experiment))()
    run = jax.jit(lambda s, r: step.train_step(experiment, s, r))
    for _ in range(steps):
        made, metrics = run(made, rows)
    return made, metrics


def test_token_losses_in_float64():
    random = np.random.default_rng(0)
    logits, targets = 5 * random.standard_normal((3, 7, 11)), random.integers(0, 11, (3, 7))
    shifted = logits - logits.max(-1, keepdims=True)
    expected = np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, targets[..., None], -1)[..., 0]
    found, total = loss.token_losses(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total, np.log(np.exp(logits).sum(-1)), rtol=1e-5)
    large = jnp.asarray([[[1e4, 0.0]]])
    np.testing.assert_allclose(loss.token_losses(large, jnp.asarray([[1]]))[0], [[1e4]])


def test_only_weighted_targets_count():
    made = jax.jit(lambda: state.create_state(tiny.experiment()))()
    rows = jax.tree.map(lambda x: x[0], tiny.one_step(tiny.rows(1)))
    total, weight, *_ = loss.sum_losses(made.model, rows)
    each, _ = loss.token_losses(made.model.logits(made.model.hidden(*rows[:1], *rows[2:4])), rows.targets)
    assert weight == rows.weights.sum()
    np.testing.assert_allclose(total, np.asarray(each)[rows.weights > 0].sum(), rtol=1e-5)
    other = rows._replace(targets=np.where(rows.weights > 0, rows.targets, 0))
    np.testing.assert_allclose(loss.sum_losses(made.model, other)[0], total, rtol=1e-6)


def with_chunks(chunks: int, dtype: str = "float32", logit_cap: float | None = None):
    made = tiny.experiment()
    model = replace(made.model, vocab_size=88, logit_cap=logit_cap)  # a size that no other axis has
    return replace(made, model=model, execution=c_model.Execution(dtype, loss_chunks=chunks), z_loss=0.01)


@pytest.mark.parametrize("logit_cap", [None, 0.5])
def test_the_loss_in_chunks_is_the_loss_at_once(logit_cap):
    capped = functools.partial(with_chunks, logit_cap=logit_cap)
    rows, begun = tiny.one_step(tiny.rows(1)), jax.jit(lambda: state.create_state(capped(1)))()
    found = {}
    for chunks in (1, 4):
        made = jax.jit(lambda: state.create_state(capped(chunks)))()  # noqa: B023
        found[chunks] = jax.jit(lambda s, r: step.loss_and_gradient(capped(1), s, r, None))(made, rows)
    assert tiny.distance(found[4], found[1]) < 1e-5
    assert tiny.distance(begun.model, made.model) == 0


@pytest.mark.parametrize("sizes", [{}, {"tensor": 2, "data": 2, "context": 2}], ids=["one device", "a mesh"])
def test_in_chunks_the_logits_are_never_whole(sizes):
    """Not in any type: in the compiled program no array is as large as a device's share of the batch's logits."""
    made, rows = with_chunks(4, "bfloat16"), tiny.rows(1)
    with jax.set_mesh(make_mesh(sizes)) if sizes else contextlib.nullcontext():
        if sizes:
            source = lambda step, start, stop: jax.tree.map(lambda x: x[step, 0, start:stop], tiny.rows(1))  # noqa: E731
            rows = feed.training_rows(source, 0, 1, 1, tiny.BATCH, tiny.LENGTH)
        largest = {}
        for chunks in (1, 4):
            begun = jax.jit(lambda: state.create_state(with_chunks(chunks, "bfloat16")))()  # noqa: B023
            run = jax.jit(lambda s, r: step.loss_and_gradient(made, s, r, None))
            text = run.lower(begun, tiny.one_step(rows)).compile().as_text()
            shapes = re.findall(r"(?:f32|bf16)\[(\d+),(\d+),(\d+)\]", text)
            vocab = 88 // sizes.get("tensor", 1)
            largest[chunks] = max(int(b) * int(t) for b, t, v in shapes if int(v) == vocab)
    assert largest[1] >= 4 * largest[4] > 0


def test_the_z_loss_is_the_mean_square_of_logsumexp_and_no_part_of_the_metric():
    """Its gradient by differences in float64: along one direction in the embedding."""
    rows, made = tiny.one_step(tiny.rows(1)), jax.jit(lambda: state.create_state(tiny.experiment()))()
    one = jax.tree.map(lambda x: x[0], rows)
    logits = np.asarray(made.model.logits(made.model.hidden(one.tokens, one.segments, one.positions)), np.float64)
    squares = np.log(np.exp(logits).sum(-1)) ** 2 * one.weights
    sums = loss.sum_losses(made.model, one, z_loss=0.5)
    np.testing.assert_allclose(sums.added, 0.5 * squares.sum(), rtol=1e-5)
    plain, found = (step.loss_and_gradient(replace(tiny.experiment(), z_loss=z), made, rows, None) for z in (0.0, 0.5))
    assert plain[0] == found[0] and tiny.distance(plain[1], found[1]) > 0.1


@pytest.mark.parametrize("chunks", [1, 4])
def test_label_smoothing_is_cross_entropy_with_smoothed_targets(chunks):
    """By its definition in float64: the target has probability 1 - e + e / V, every other token e / V."""
    made = state.create_state(tiny.experiment(execution=c_model.Execution(loss_chunks=chunks)))
    one = jax.tree.map(lambda x: x[0], tiny.one_step(tiny.rows(1)))
    logits = np.asarray(made.model.logits(made.model.hidden(one.tokens, one.segments, one.positions)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = np.eye(tiny.VOCAB)[one.targets] * 0.7 + 0.3 / tiny.VOCAB
    sums = loss.sum_losses(made.model, one, label_smoothing=0.3)
    np.testing.assert_allclose(sums.loss, loss.sum_losses(made.model, one).loss, rtol=1e-6)  # metrics stay -log p
    np.testing.assert_allclose(sums.loss + sums.added, -((wanted * log_p).sum(-1) * one.weights).sum(), rtol=1e-5)


def test_documents_in_one_row_do_not_see_each_other():
    made = jax.jit(lambda: state.create_state(tiny.experiment()))()
    rows = jax.tree.map(lambda x: x[0], tiny.one_step(tiny.rows(1)))
    first = rows._replace(weights=(rows.segments == 1).astype(np.float32))
    second = first._replace(tokens=np.where(rows.segments == 1, rows.tokens, (rows.tokens + 1) % tiny.VOCAB))
    np.testing.assert_allclose(loss.sum_losses(made.model, first)[0], loss.sum_losses(made.model, second)[0], rtol=1e-6)


@pytest.mark.parametrize("microbatches", [2, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(microbatches):
    """Also where microbatches hold different numbers of counted targets."""
    whole = tiny.one_step(tiny.rows(1))
    whole = whole._replace(weights=whole.weights * (np.arange(tiny.BATCH)[:, None] % 3 > 0))
    parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, tiny.LENGTH), whole)
    made = jax.jit(lambda: state.create_state(tiny.experiment()))()
    run = jax.jit(lambda rows: step.loss_and_gradient(tiny.experiment(), made, rows, None))
    one, many = run(whole), run(parts)
    assert tiny.distance(many, one) < 1e-5


def test_several_steps_in_a_dispatch_are_the_steps_one_by_one():
    made, rows = tiny.experiment(optimizer=c.Optimizer(0.01, average=0.9)), tiny.rows(4)
    one = many = jax.jit(lambda: state.create_state(made))()
    each = []
    for index in range(4):
        one, metrics = jax.jit(lambda s, r: step.train_step(made, s, r))(one, jax.tree.map(lambda x: x[index], rows))  # noqa: B023
        each.append(metrics)
    many, metrics = jax.jit(lambda s, r: step.train_steps(made, s, r))(many, rows)
    assert int(many.step) == 4
    assert tiny.distance(many, one) < 1e-5
    assert tiny.distance(metrics, jax.tree.map(lambda *x: np.stack(x), *each)) < 1e-5


def normalised_sum(weights: list[list[np.ndarray]], decay: float) -> list[np.ndarray]:
    """float64: sum of decay^(t - i) weights_i over the updates i = 1 .. t, over sum of decay^(t - i)."""
    factors = [decay ** (len(weights) - i) for i in range(1, len(weights) + 1)]
    return [sum(f * x for f, x in zip(factors, xs, strict=True)) / sum(factors) for xs in zip(*weights, strict=True)]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 0.999999])
def test_the_average_is_the_normalised_sum_over_the_updates_weights(decay):
    """Of every update from the first to the fiftieth; nothing of what it was before."""
    weights = np.random.default_rng(0).standard_normal((50, 1, 100))
    average, add = [jnp.ones(100)], jax.jit(lambda average, now, t: step.update_average(average, now, decay, t))
    for t in range(1, len(weights) + 1):
        average = add(average, [jnp.asarray(weights[t - 1, 0], jnp.float32)], jnp.int32(t))
        assert tiny.distance(average, normalised_sum(list(weights[:t]), decay)) < 2e-6


def test_a_restart_changes_nothing_in_the_average(tmp_path):
    """Steps of a run that goes on from its checkpoint half way, against the sum over the weights of all of them."""
    made = tiny.experiment(optimizer=c.Optimizer(0.01, average=0.9999))
    run = jax.jit(lambda s, r: step.train_step(made, s, r)[0])
    now, rows, seen = jax.jit(lambda: state.create_state(made))(), tiny.rows(4), []
    for index in range(4):
        if index == 2:
            saved = Checkpoints(tmp_path, keep_last=1, keep_best=0)
            saved.save(2, now, {}, None)
            saved.wait()
            now = saved.restore(2, now)
            saved.close()
        now = run(now, jax.tree.map(lambda x: x[index], rows))  # noqa: B023
        seen.append([np.asarray(x, np.float64) for x in jax.tree.leaves(now.model)])
        assert tiny.distance(now.average, normalised_sum(seen, 0.9999)) < 1e-6
    assert now.evaluation_model is now.average and now._replace(average=None).evaluation_model is now.model


def test_a_step_says_its_loss_norm_and_rate():
    made, rows = tiny.experiment(optimizer=c.Optimizer(0.01, schedule=c.Schedule("linear", warmup=3))), tiny.rows(1)
    begun = jax.jit(lambda: state.create_state(made))()
    _, metrics = jax.jit(lambda s, r: step.train_step(made, s, r))(begun, tiny.one_step(rows))
    expected, gradient = step.loss_and_gradient(made, begun, tiny.one_step(rows), None)
    squares = sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(gradient))
    assert float(metrics["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(squares**0.5, rel=1e-5)
    assert float(metrics["rate"]) == pytest.approx(0.01 / 4)


def test_rows_without_a_counted_target_change_nothing_but_decay():
    made = tiny.experiment(optimizer=c.Optimizer(0.01, c.AdamW(weight_decay=0.0)))
    begun = jax.jit(lambda: state.create_state(made))()
    rows = tiny.one_step(tiny.rows(1))
    after, metrics = stepped(made, rows._replace(weights=np.zeros_like(rows.weights)))
    assert float(metrics["train/loss"]) == 0.0
    assert tiny.distance(after.model, begun.model) == 0.0


def test_dropout_differs_by_step_and_seed_and_is_off_in_evaluation():
    block = replace(tiny.BLOCK, dropout=0.3)
    made, rows = tiny.experiment(block, optimizer=c.Optimizer(0.0)), tiny.one_step(tiny.rows(1))
    assert step.uses_dropout(made) and not step.uses_dropout(tiny.experiment())
    begun = jax.jit(lambda: state.create_state(made))()
    run = jax.jit(lambda s, r: step.train_step(made, s, r)[1]["train/loss"])
    again = begun._replace(step=begun.step + 1)
    assert run(begun, rows) == run(begun, rows) != run(again, rows)
    other = replace(made, seed=1)
    assert run(begun, rows) != jax.jit(lambda s, r: step.train_step(other, s, r)[1]["train/loss"])(begun, rows)
    one_row = jax.tree.map(lambda x: x[0], rows)
    assert loss.sum_losses(begun.model, one_row)[0] == loss.sum_losses(begun.model, one_row)[0]


def test_accumulated_microbatches_draw_their_own_dropout():
    """The same rows twice in a batch: with one mask for both, the gradient would be that of one."""
    block = replace(tiny.BLOCK, dropout=0.5)
    made = jax.jit(lambda: state.create_state(tiny.experiment(block)))()
    half = jax.tree.map(lambda x: x[:, :4], tiny.one_step(tiny.rows(1)))
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), half)
    run = jax.jit(functools.partial(step.loss_and_gradient, tiny.experiment(block)))
    one, both = (run(made, rows, jax.random.key(0))[0]["train/loss"] for rows in (half, twice))
    keys = jax.random.split(jax.random.key(0))
    each = [loss.sum_losses(made.model, jax.tree.map(lambda x: x[0], half), key)[0] for key in keys]
    assert each[0] != each[1]
    np.testing.assert_allclose(both, sum(each) / (2 * half.weights.sum()), rtol=1e-5)
    assert one != both


def test_training_learns_what_can_be_learned():
    """Every token has one successor: the loss falls from log(32) to nearly nothing."""
    made = tiny.experiment(optimizer=c.Optimizer(0.03, c.Muon(adam_rate=0.3)), steps=80)
    order = np.resize(np.random.default_rng(0).permutation(tiny.VOCAB), (tiny.BATCH, tiny.LENGTH + 1)).astype(np.int32)
    ones = np.ones((tiny.BATCH, tiny.LENGTH), np.int32)
    rows = Rows(order[:, :-1], order[:, 1:], ones, np.cumsum(ones, 1, dtype=np.int32) - 1, ones.astype(np.float32))
    rows = jax.tree.map(lambda x: x[None], rows)
    assert float(stepped(made, rows)[1]["train/loss"]) == pytest.approx(math.log(tiny.VOCAB), rel=0.2)
    assert float(stepped(made, rows, 80)[1]["train/loss"]) < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_gradients_and_memories_stay_float32(dtype):
    made = tiny.experiment(optimizer=c.Optimizer(0.01, c.Muon(), average=0.9))
    made = replace(made, execution=replace(made.execution, dtype=dtype))
    after, metrics = stepped(made, tiny.one_step(tiny.rows(1)))
    floats = [x for x in jax.tree.leaves((after, metrics)) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    assert after.model.hidden(tiny.rows(1).tokens[0, 0]).dtype == jnp.dtype(dtype)


def test_bfloat16_is_near_float32():
    made = tiny.experiment()
    low = replace(made, execution=replace(made.execution, dtype="bfloat16"))
    rows = tiny.one_step(tiny.rows(1))
    one, other = (float(stepped(e, rows)[1]["train/loss"]) for e in (made, low))
    assert one != other and one == pytest.approx(other, rel=5e-3)


def test_scoring_sums_every_token_once():
    """Against each row's loss by itself, in float64."""
    made = jax.jit(lambda: state.create_state(tiny.experiment()))()
    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, 75)
    documents = Documents(tokens, np.array([0, 75]), np.array([74]), ended=True)
    found = evaluate.add_up(evaluate.sums_by_batch(made.model, scoring_rows(documents, 16, 16, 3)))
    assert found.tokens == 74
    total = 0.0
    for start in range(0, 74, 16):
        piece = tokens[start : start + 17]
        logits = np.asarray(made.model.logits(made.model.hidden(piece[None, :-1])), np.float64)[0]
        shifted = logits - logits.max(-1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(piece) - 1), piece[1:]]
        total += losses.sum()
    assert found.nats == pytest.approx(total, rel=1e-5)
    assert found.text_nats == pytest.approx(total - losses[-1], rel=1e-5), "the last token is no text"


def test_scores_by_hand():
    found = evaluate.metrics(evaluate.LossSums(nats=600.0, tokens=300, text_nats=500.0), 1000)
    assert found["bits_per_byte"] == pytest.approx(500.0 / np.log(2) / 1000)
    assert found["perplexity"] == pytest.approx(np.exp(2.0))
    assert (found["loss"], found["tokens"], found["bytes"]) == (2.0, 300, 1000)


def test_a_window_that_the_chunks_do_not_divide_is_scored_in_fewer():
    made = jax.jit(lambda: state.create_state(with_chunks(8)))()
    rows = jax.tree.map(lambda x: x[0, :, :15], tiny.one_step(tiny.rows(1)))  # fifteen tokens: in five parts
    plain = jax.jit(lambda: state.create_state(with_chunks(1)))()
    np.testing.assert_allclose(
        loss.sum_losses(made.model, rows).loss, loss.sum_losses(plain.model, rows).loss, rtol=1e-6
    )
