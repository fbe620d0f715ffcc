"""What no type excludes in a model's config is refused in one line that names the field."""

from dataclasses import replace

import pytest
import tiny

from model.config import LSTM, Attention, Block, LinearScaling, Llama3Scaling, Norm, Rope, YarnScaling
from train.check import check
from train.config import Mesh
from train.fields import ConfigError

MIXER, BLOCK = "model.layers.0.pattern.0.mixer", "model.layers.0.pattern.0"
HEADS = Attention(4, 2, 8)


def with_block(**fields):
    return tiny.experiment(replace(tiny.BLOCK, **fields))


def with_attention(**fields):
    return with_block(mixer=replace(HEADS, **fields))


def with_scaling(scaling, base: float = 10_000.0):
    return with_attention(rope=Rope(base, scaling))


def with_model(**fields):
    made = tiny.experiment()
    return replace(made, model=replace(made.model, **fields))


LLAMA3, YARN = Llama3Scaling(8.0, 1.0, 4.0, 8192), YarnScaling(4.0, 4096)
REFUSED = {
    "window": (with_attention(window=0), f"{MIXER}.window: must be at least 1, or null, got 0"),
    "score_cap": (with_attention(score_cap=-1.0), f"{MIXER}.score_cap: must be above 0, or null, got -1.0"),
    "value_width": (with_attention(value_width=0), f"{MIXER}.value_width: must be at least 1, or null, got 0"),
    "query_key_norm": (
        with_attention(query_key_norm=Norm(epsilon=0.0)), f"{MIXER}.query_key_norm.epsilon: must be above 0, got 0.0",
    ),
    "score_scale": (with_attention(score_scale=float("inf")), f"{MIXER}.score_scale: must be finite, got inf"),
    "norm": (with_block(norm=Norm(epsilon=-1.0)), f"{BLOCK}.norm.epsilon: must be above 0, got -1.0"),
    "offset": (with_block(norm=Norm(offset=float("nan"))), f"{BLOCK}.norm.offset: must be finite, got nan"),
    "final_norm": (with_model(final_norm=Norm(epsilon=0.0)), "model.final_norm.epsilon: must be above 0, got 0.0"),
    "logit_cap": (with_model(logit_cap=0.0), "model.logit_cap: must be above 0, or null, got 0.0"),
    "forget_bias": (
        tiny.experiment(Block(LSTM(float("inf")), None)), f"{MIXER}.forget_bias: must be finite, got inf",
    ),
    "context": (
        replace(tiny.experiment(Block(LSTM(), None)), mesh=Mesh(context=2)),
        "mesh.context: must be 1 where a layer is recurrent: it reads time in order, got 2",
    ),
    "base": (with_scaling(None, 1.0), f"{MIXER}.rope.base: must be above 1, got 1.0"),
    "linear factor": (with_scaling(LinearScaling(0.0)), f"{MIXER}.rope.scaling.factor: must be above 0, got 0.0"),
    "llama3 frequencies": (
        with_scaling(replace(LLAMA3, high_frequency=1.0)),
        f"{MIXER}.rope.scaling.high_frequency: must be above low_frequency=1, got 1.0",
    ),
    "llama3 context": (
        with_scaling(replace(LLAMA3, original_context=0)),
        f"{MIXER}.rope.scaling.original_context: must be at least 1, got 0",
    ),
    "yarn betas": (
        with_scaling(replace(YARN, beta_fast=0.5)),
        f"{MIXER}.rope.scaling.beta_fast: must be above beta_slow=1, got 0.5",
    ),
    "yarn attention_factor": (
        with_scaling(replace(YARN, attention_factor=0.0)),
        f"{MIXER}.rope.scaling.attention_factor: must be above 0, or null, got 0.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("made, message", REFUSED.values(), ids=REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_field(made, message):
    with pytest.raises(ConfigError) as error:
        check(made)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "made",
    [
        with_attention(window=100_000, score_cap=50.0, value_width=12, query_key_norm=Norm()),
        with_scaling(LLAMA3),
        with_scaling(YARN),
        tiny.experiment(Block(LSTM(), None, placement="plain")),
    ],
    ids=["a window larger than the context", "llama3", "yarn", "LSTM"],
)
def test_good_values_are_taken(made):
    check(made)
