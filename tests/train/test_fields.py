"""Every field of an experiment matters: changing it changes the lowered step. And configs as JSON and by path."""

import dataclasses
from dataclasses import replace

import jax
import pytest
import tiny

from data.config import Source
from model.config import Norm
from train import config as c
from train import fields, state, step
from train.config import Experiment

SCHEDULE = c.Schedule("wsd", warmup=2, final=0.1, decay=0.5)
CHANGES = {
    c.AdamW: {"beta1": 0.5, "beta2": 0.5, "epsilon": 1e-3, "weight_decay": 0.3},
    c.Muon: {
        "momentum": 0.5, "nesterov": False, "iterations": 3, "weight_decay": 0.3, "adam": c.AdamW(beta1=0.1),
        "adam_rate": 0.7,
    },
    c.Lion: {"beta1": 0.5, "beta2": 0.5, "weight_decay": 0.3},
    c.Adafactor: {"decay": 0.5, "weight_decay": 0.3},
    c.Schedule: {"shape": "linear", "warmup": 5, "final": 0.4, "decay": 0.9},
    c.Optimizer: {
        "peak_rate": 0.5, "rule": c.Lion(), "schedule": c.Schedule("constant"), "clip": None, "average": 0.9,
    },
}  # fmt: skip


def lowered(experiment: Experiment) -> str:
    """The program of a run's birth and its first step."""

    def program(rows):
        return step.train_step(experiment, state.create_state(experiment), rows)

    return jax.jit(program).lower(tiny.one_step(tiny.rows(1, experiment.microbatches))).as_text()


def with_part(part) -> Experiment:
    """An experiment that holds this optimizer, rule or schedule."""
    if isinstance(part, c.Optimizer):
        return tiny.experiment(optimizer=part)
    place = "schedule" if isinstance(part, c.Schedule) else "rule"
    return tiny.experiment(optimizer=replace(c.Optimizer(0.01, schedule=SCHEDULE), **{place: part}))


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_every_field_of_an_optimizer_matters(kind):
    assert set(CHANGES[kind]) == {f.name for f in dataclasses.fields(kind)}
    base = {c.Optimizer: c.Optimizer(0.01), c.Schedule: SCHEDULE}.get(kind) or kind()
    before = lowered(with_part(base))
    idle = [n for n, value in CHANGES[kind].items() if lowered(with_part(replace(base, **{n: value}))) == before]
    assert not idle


def test_seed_steps_and_microbatches_matter():
    made = tiny.experiment(optimizer=c.Optimizer(0.01, schedule=SCHEDULE))
    changes = {"seed": 1, "steps": 50, "microbatches": 2, "model": replace(made.model, width=16)}
    assert not [n for n, value in changes.items() if lowered(replace(made, **{n: value})) == lowered(made)]


def test_a_config_comes_back_from_json_and_differs_where_it_was_changed():
    made = tiny.experiment(optimizer=c.Optimizer(0.01, c.Muon()))
    assert fields.from_json(Experiment, fields.to_json(made)) == made
    other = fields.replace_at(fields.replace_at(made, "optimizer.rule.adam.beta2", "0.5"), "model.width", "64")
    assert fields.differences(made, made) == []
    assert fields.differences(made, other) == [("model.width", 32, 64), ("optimizer.rule.adam.beta2", 0.95, 0.5)]
    assert fields.replace_at(made, "optimizer.rule", "lion").optimizer.rule == c.Lion()
    assert fields.replace_at(made, "optimizer.clip", "None").optimizer.clip is None
    deeper = fields.replace_at(made, "model.layers.0.pattern.0.mixer.heads", "8")
    assert deeper.model.layers[0].pattern[0].mixer.heads == 8


@pytest.mark.parametrize(
    "text", ["2024", "1.50", "true", "null", "None", "[1]", "NaN", "9" * 5000, "a.txt"], ids=lambda text: text[:6]
)
def test_a_text_field_takes_a_persons_text_as_it_stands(text):
    assert fields.replace_at(tiny.experiment(), "data.source.path", text).data.source.path == text
    assert fields.replace_at(tiny.experiment(), "data.source.path", '"quoted"').data.source.path == "quoted"


def test_a_field_below_a_null_one_makes_what_holds_it():
    made = tiny.experiment()
    assert made.data.validation_source is None
    assert fields.replace_at(made, "data.validation_source.path", "2024").data.validation_source == Source("2024")
    block = replace(tiny.BLOCK, mixer=replace(tiny.BLOCK.mixer, query_key_norm=None))
    path = "model.layers.0.pattern.0.mixer.query_key_norm.epsilon"
    other = fields.replace_at(tiny.experiment(block), path, "0.5")
    assert other.model.layers[0].pattern[0].mixer.query_key_norm == Norm(epsilon=0.5)


@pytest.mark.parametrize(
    "path, parts",
    [
        ("data.validation_source.field", ['--set data.validation_source=\'{"is": "Source", "path": "…"}\'']),
        ("data.validation_source.pth", ['{"is": "Source", "path": "…"}', "did you mean 'path'"]),
        ("model.positions.base", ['{"is": "Learned"}', 'or --set model.positions=\'{"is": "Sinusoidal"}\'']),
    ],
)
def test_a_field_below_a_null_one_that_can_not_be_made_says_how_to_set_it(path, parts):
    with pytest.raises(fields.ConfigError) as error:
        fields.replace_at(tiny.experiment(), path, "x")
    whole = path.rpartition(".")[0]
    assert all(part in str(error.value) for part in (f"--set {path}: {whole} is null", *parts)), error.value


def test_the_way_to_set_a_null_field_that_is_told_works():
    made = fields.replace_at(tiny.experiment(), "data.validation_source", '{"is": "Source", "path": "v.txt"}')
    assert made.data.validation_source == Source("v.txt")
    assert fields.replace_at(made, "model.positions", '{"is": "Learned"}').model.positions is not None
