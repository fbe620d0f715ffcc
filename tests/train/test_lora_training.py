"""Training adapters: what moves and what never does, their gradients, and the base that is stored once."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny

from model import lora
from model.config import LoRA
from model.paths import flatten_by_path, parameters_by_path
from model.transformer import Transformer
from train import base, state, step
from train import config as c
from train.check import check
from train.checkpoint_folder import CheckpointError
from train.config import Experiment
from train.fields import ConfigError
from train.state import TrainState

pytestmark = pytest.mark.timeout(120)
CHOICE = LoRA(4, 8.0, ("stacks.*.mixer.query", "*.down", "output"))


def experiment(rule=None, **fields) -> Experiment:
    optimizer = c.Optimizer(0.01, rule or c.AdamW(), c.Schedule("constant"), average=0.9)
    return tiny.experiment(lora=CHOICE, optimizer=optimizer, **fields)


@functools.cache
def first_state(made: Experiment) -> TrainState:
    return jax.jit(functools.partial(state.create_state, made))()


def copied(tree) -> list[np.ndarray]:
    return [np.array(x) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("rule", [c.AdamW(), c.Muon()], ids=lambda rule: type(rule).__name__)
def test_steps_learn_a_batch_with_adapters_and_leave_the_base_as_it_was(rule):
    made = experiment(rule)
    before = first_state(made)
    frozen, adapters = copied(before.frozen), copied(before.model)
    rows = jax.tree.map(lambda x: np.repeat(x, 8, 0), tiny.rows(1))
    after, metrics = jax.jit(functools.partial(step.train_steps, made))(before, rows)
    assert metrics["train/loss"][-1] < metrics["train/loss"][0] - 0.02
    assert all(map(np.array_equal, frozen, copied(after.frozen)))
    assert not any(map(np.array_equal, adapters, copied(after.model)))
    assert sum(x.size for x in jax.tree.leaves(after.optimizer)) < 3 * sum(x.size for x in adapters)
    whole = after.evaluation_model
    assert isinstance(whole, Transformer)
    averaged = whole.stacks[0].pattern[0].mixer.query.adapter.up[...]
    assert averaged is after.average["stacks.0.pattern.0.mixer.query"].up[...]


def test_an_adapters_gradient_is_the_weights_gradient_between_its_matrices():
    """d loss / d up = scale * down' dW, and nothing for down, which up = 0 hides; dW is that of an untied model."""
    made = experiment()
    now, rows = first_state(made), tiny.one_step(tiny.rows(1))
    metrics, gradient = jax.jit(lambda s: step.loss_and_gradient(made, s, rows, None))(now)
    plain = replace(made, lora=None, model=replace(made.model, tied=False))
    whole = TrainState(now.step, now.frozen, (), None)
    expected_metrics, expected = jax.jit(lambda s: step.loss_and_gradient(plain, s, rows, None))(whole)
    value, expected_value = (float(m["train/loss"]) for m in (metrics, expected_metrics))
    assert value == pytest.approx(expected_value, abs=1e-6)
    parameters = parameters_by_path(expected)
    for path, adapter in now.model.items():
        down, up = (np.asarray(gradient[path].down[...]), np.asarray(gradient[path].up[...]))
        assert not down.any()
        inputs, stacked = parameters[path].input_axes, path.startswith("stacks")
        for layer in range(2) if stacked else [...]:
            weight = np.asarray(parameters[path][...], np.float64)[layer]
            matrix = weight.reshape(np.prod(weight.shape[:inputs], dtype=int), -1)
            low = np.asarray(adapter.down[...], np.float64)[layer].reshape(len(matrix), -1)
            assert tiny.relative(up[layer].reshape(low.shape[1], -1), 8 / 4 * low.T @ matrix) < 1e-5, path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rank": 0}, "lora.rank: must be at least 1, got 0"),
        ({"alpha": 0.0}, "lora.alpha: must be above 0, got 0.0"),
        ({"paths": ()}, "lora.paths: must be one pattern at least, as stacks.*.mixer.query, got none"),
    ],
)
def test_adapters_that_can_change_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(replace(experiment(), lora=replace(CHOICE, **changes)))


def test_every_field_of_adapters_matters():
    def lowered(choice: LoRA | None) -> str:
        made = replace(experiment(), lora=choice)
        steps = jax.jit(lambda: step.train_step(made, state.create_state(made), tiny.one_step(tiny.rows(1))))
        return steps.lower().as_text()

    choices = [None, CHOICE, *(replace(CHOICE, **x) for x in ({"rank": 2}, {"alpha": 1.0}, {"paths": ("output",)}))]
    assert len({lowered(choice) for choice in choices}) == len(choices)


def test_a_base_comes_back_bitwise_and_only_whole(tmp_path):
    stored = first_state(experiment()).frozen
    base.write_base(tmp_path, stored)
    base.write_base(tmp_path, stored)  # a second start before the first checkpoint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    found = base.read_base(tmp_path, stored)
    assert jax.tree.structure(found) == jax.tree.structure(stored)
    assert all(map(np.array_equal, copied(found), copied(stored)))
    file = max((p for p in (tmp_path / "base" / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"base: .*{file.name} is not what was stored; .* put the folder back"):
        base.read_base(tmp_path, stored)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name} is not what was stored"):
        base.read_base(tmp_path, stored)
    (tmp_path / "base").rename(tmp_path / "base.unfinished")  # as a kill in the middle leaves it
    with pytest.raises(CheckpointError, match="base: no such folder"):
        base.read_base(tmp_path, stored)


def test_the_base_of_a_tied_model_is_untied_only_for_adapters_of_its_matrix():
    untied, tied = (first_state(replace(experiment(), lora=replace(CHOICE, paths=(p,)))) for p in ("output", "*.down"))
    assert untied.frozen.output is not None and tied.frozen.output is None
    extra = flatten_by_path(untied.frozen).keys() - flatten_by_path(tied.frozen).keys()
    assert extra == {"output"} == untied.model.keys()
    table, output = untied.frozen.embedding.table[...], untied.frozen.output[...]
    np.testing.assert_array_equal(output, np.asarray(table).T)
    assert lora.adapted_config(tiny.experiment().model, CHOICE).tied is False
