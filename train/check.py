"""Checks an experiment for what its types can't exclude: ranges, sizes that must divide, a vocabulary too small.

launch/ calls `check` before anything else is done, and `check_vocabulary` once the tokenizer is there.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import fields as fields_of

from data.config import Data, Mixture, split_spans
from model.config import (
    LSTM,
    MLP,
    Attention,
    Block,
    LinearScaling,
    Llama3Scaling,
    MoE,
    Norm,
    Rope,
    YarnScaling,
    blocks,
)
from train import config as c
from train import fields
from train.check_energy import check_energy
from train.check_objective import check_objective
from train.config import Experiment
from train.fields import ConfigError, require
from train.quality.intervals import FEWEST

AT_LEAST_1 = (
    "steps", "batch_size", "microbatches", "data.length", "evaluation.every", "checkpoints.every",
    "checkpoints.keep_last", "model.width", "model.context", "execution.loss_chunks",
)  # fmt: skip
AT_LEAST_0 = (
    "model.vocab_size", "steps_per_dispatch", "checkpoints.keep_best", "optimizer.schedule.warmup",
    "execution.stage_microbatches", "z_loss", "chip_hour",
)  # fmt: skip
SHARES = ("optimizer.schedule.final", "optimizer.schedule.decay")  # from 0 to 1


def field_at(experiment: Experiment, path: str):
    return functools.reduce(getattr, path.split("."), experiment)


def check(experiment: Experiment) -> None:
    """Raises ConfigError where an experiment can't work, naming the path and values that would work."""
    e, m = experiment, experiment.model
    check_ranges(e)
    if e.data.length > m.context:
        raise ConfigError(f"data.length: {e.data.length} is longer than model.context={m.context}; set either")
    if e.batch_size % e.microbatches:
        nearest = max(d for d in range(1, e.microbatches + 1) if e.batch_size % d == 0)
        raise ConfigError(f"microbatches: {e.microbatches} does not divide batch_size={e.batch_size}; try {nearest}")
    for i, stack in enumerate(m.layers):
        require(f"model.layers.{i}.repeats", stack.repeats, stack.repeats >= 1, "at least 1")
        for j, block in enumerate(stack.pattern):
            check_block(f"model.layers.{i}.pattern.{j}", block)
    check_spans(e.data)
    check_mixture(e.data)
    check_objective(e)
    check_energy(e.energy)
    check_mesh(e)


def check_vocabulary_stated(experiment: Experiment) -> None:
    """Raises ConfigError where vocab_size is left to the tokenizer, for commands that read no text and so have none."""
    size = experiment.model.vocab_size
    require("model.vocab_size", size, size >= 1, "at least 1 here, where no text is read (0 means the tokenizer's)")


def check_vocabulary(experiment: Experiment, vocab_size: int) -> None:
    """Raises ConfigError where the tokenizer has more ids than the model."""
    if experiment.model.vocab_size < vocab_size:
        raise ConfigError(
            f"model.vocab_size: {experiment.model.vocab_size} is smaller than the tokenizer's {vocab_size}; "
            f"set model.vocab_size={vocab_size} (a little more is allowed), or 0 to take the tokenizer's"
        )


def check_ranges(e: Experiment) -> None:
    """Raises ConfigError for numbers that would make a run diverge, or do nothing, without a message."""
    for path, value in fields.leaves(fields.to_json(e)).items():
        require(path, value, not isinstance(value, float) or math.isfinite(value), "finite")
    for path in AT_LEAST_1:
        require(path, field_at(e, path), field_at(e, path) >= 1, "at least 1")
    for path in AT_LEAST_0:
        require(path, field_at(e, path), field_at(e, path) >= 0, "at least 0")
    for path in SHARES:
        require(path, field_at(e, path), 0 <= field_at(e, path) <= 1, "a share from 0 to 1")
    o = e.optimizer
    require("seed", e.seed, 0 <= e.seed < 2**63 - 1, "from 0 to 2**63 - 2")
    require("optimizer.peak_rate", o.peak_rate, o.peak_rate > 0, "above 0")
    require("optimizer.clip", o.clip, o.clip is None or o.clip > 0, "above 0, or null")
    require("optimizer.average", o.average, o.average is None or 0 <= o.average < 1, "from 0 to below 1, or null")
    require("model.dropout", e.model.dropout, 0 <= e.model.dropout < 1, "from 0 to below 1")
    cap = e.model.logit_cap
    require("model.logit_cap", cap, cap is None or cap > 0, "above 0, or null")
    check_norm("model.final_norm", e.model.final_norm)
    check_norm("model.embedding_norm", e.model.embedding_norm)
    require("model.layers", "none", bool(blocks(e.model)), "one block at least")
    check_rule("optimizer.rule", o.rule)
    if e.evaluation.human is not None:
        check_human("evaluation.human", e.evaluation.human)
    if e.lora is not None:
        require("lora.rank", e.lora.rank, e.lora.rank >= 1, "at least 1")
        require("lora.alpha", e.lora.alpha, e.lora.alpha > 0, "above 0")
        require("lora.paths", "none", bool(e.lora.paths), "one pattern at least, as stacks.*.mixer.query")


def check_human(path: str, human: c.HumanDistance) -> None:
    least_of = {"texts": FEWEST, "prompt_tokens": 1, "new_tokens": 4, "patience": 0}  # 4: for 4-grams
    for name, least in least_of.items():
        value = getattr(human, name)
        require(f"{path}.{name}", value, value >= least, f"at least {least}")


def check_rule(path: str, rule) -> None:
    for field in fields_of(rule):
        value, name = getattr(rule, field.name), f"{path}.{field.name}"
        match field.name:
            case "beta1" | "beta2" | "momentum" | "decay":
                require(name, value, 0 <= value < 1, "from 0 to below 1")
            case "weight_decay" | "adam_rate" | "iterations":
                require(name, value, value >= 0, "at least 0")
            case "epsilon":
                require(name, value, value > 0, "above 0")
            case "adam":
                check_rule(name, value)


def check_block(path: str, block: Block) -> None:
    CHECKS[type(block.mixer)](f"{path}.mixer", block.mixer)
    CHECKS[type(block.feed_forward)](f"{path}.feed_forward", block.feed_forward)
    require(f"{path}.dropout", block.dropout, 0 <= block.dropout < 1, "from 0 to below 1")
    require(f"{path}.token_shift", block.token_shift, 0 <= block.token_shift <= 1, "a share from 0 to 1")
    check_norm(f"{path}.norm", block.norm)


def check_norm(path: str, norm: Norm | None) -> None:
    if norm is not None:
        require(f"{path}.epsilon", norm.epsilon, norm.epsilon > 0, "above 0")


def check_attention(path: str, attention: Attention) -> None:
    for name in ("heads", "kv_heads", "head_width"):
        require(f"{path}.{name}", getattr(attention, name), getattr(attention, name) >= 1, "at least 1")
    for name in ("window", "value_width"):
        value = getattr(attention, name)
        require(f"{path}.{name}", value, value is None or value >= 1, "at least 1, or null")
    require(f"{path}.dropout", attention.dropout, 0 <= attention.dropout < 1, "from 0 to below 1")
    cap = attention.score_cap
    require(f"{path}.score_cap", cap, cap is None or cap > 0, "above 0, or null")
    if attention.heads % attention.kv_heads:
        fits = [d for d in range(1, attention.heads + 1) if attention.heads % d == 0]
        raise ConfigError(f"{path}.kv_heads: {attention.kv_heads} does not divide heads={attention.heads}; try {fits}")
    if attention.rope and attention.head_width % 2:
        raise ConfigError(f"{path}.head_width: rotary positions need an even width, not {attention.head_width}")
    CHECKS[type(attention.rope)](f"{path}.rope", attention.rope)
    check_norm(f"{path}.query_key_norm", attention.query_key_norm)


def check_rope(path: str, rope: Rope) -> None:
    require(f"{path}.base", rope.base, rope.base > 1, "above 1")
    CHECKS[type(rope.scaling)](f"{path}.scaling", rope.scaling)


def check_linear_scaling(path: str, scaling: LinearScaling) -> None:
    require(f"{path}.factor", scaling.factor, scaling.factor > 0, "above 0")


def check_llama3_scaling(path: str, scaling: Llama3Scaling) -> None:
    low, high = scaling.low_frequency, scaling.high_frequency
    require(f"{path}.factor", scaling.factor, scaling.factor > 0, "above 0")
    require(f"{path}.low_frequency", low, low > 0, "above 0")
    require(f"{path}.high_frequency", high, high > low, f"above low_frequency={low:g}")
    require(f"{path}.original_context", scaling.original_context, scaling.original_context >= 1, "at least 1")


def check_yarn_scaling(path: str, scaling: YarnScaling) -> None:
    slow, fast, factor = scaling.beta_slow, scaling.beta_fast, scaling.attention_factor
    require(f"{path}.factor", scaling.factor, scaling.factor > 0, "above 0")
    require(f"{path}.beta_slow", slow, slow > 0, "above 0")
    require(f"{path}.beta_fast", fast, fast > slow, f"above beta_slow={slow:g}")
    require(f"{path}.attention_factor", factor, factor is None or factor > 0, "above 0, or null")
    require(f"{path}.original_context", scaling.original_context, scaling.original_context >= 1, "at least 1")


def check_mlp(path: str, mlp: MLP) -> None:
    require(f"{path}.width", mlp.width, mlp.width >= 1, "at least 1")


def check_experts(path: str, moe: MoE) -> None:
    require(f"{path}.width", moe.width, moe.width >= 1, "at least 1")
    require(f"{path}.experts", moe.experts, moe.experts >= 1, "at least 1")
    require(f"{path}.active", moe.active, 1 <= moe.active <= moe.experts, f"from 1 to experts={moe.experts}")
    for name in ("shared", "balance_loss", "router_z_loss", "balance_rate"):
        value = getattr(moe, name)
        require(f"{path}.{name}", value, value >= 0, "at least 0 (0: none)")
    require(f"{path}.scale", moe.scale, moe.scale > 0, "above 0")


def check_nothing(path: str, part) -> None:
    """Of a part whose fields may have any value, or that is not there."""


# Class of a part of a block's config -> what checks it.
CHECKS = {
    Attention: check_attention,
    LSTM: check_nothing,
    MLP: check_mlp,
    MoE: check_experts,
    Rope: check_rope,
    LinearScaling: check_linear_scaling,
    Llama3Scaling: check_llama3_scaling,
    YarnScaling: check_yarn_scaling,
    type(None): check_nothing,
}


def check_spans(data: Data) -> None:
    """Raises ConfigError for spans that are no part of a text, and where training reaches into validation."""
    train, validation = splits = split_spans(data)
    for name, span in splits._asdict().items():
        valid = 0 <= span.start < span.stop <= 1
        require(f"data.{name}", f"{span.start:g} to {span.stop:g}", valid, "a part of the text: 0 <= start < stop <= 1")
    disjoint = train.stop <= validation.start or validation.stop <= train.start
    if data.validation_source in (None, data.source) and not disjoint and not validation_contains_training(data):
        train_is_first = train.start < validation.start
        suggestion = f"train.stop={validation.start:g}" if train_is_first else f"train.start={validation.stop:g}"
        raise ConfigError(
            f"data.train: {train.start:g} to {train.stop:g} of the text reaches into data.validation, "
            f"{validation.start:g} to {validation.stop:g} of it; set data.{suggestion}"
        )


def check_mixture(data: Data) -> None:
    """Raises ConfigError for weights that mix nothing, phases out of order, bad shares, and prompts that are all."""
    for source in (part.source for part in data.parts):
        require("data.source.max_refused", source.max_refused, 0 <= source.max_refused <= 1, "from 0 to 1")
        require("data.source.prompt", source.prompt, source.prompt != source.field, "another field than the source's")
    if not isinstance(data.source, Mixture):
        return
    weights = {"data.source.parts": [part.weight for part in data.parts]}
    weights |= {f"data.source.phases.{i}.weights": phase.weights for i, phase in enumerate(data.source.phases)}
    for path, values in weights.items():
        shown = ", ".join(f"{value:g}" for value in values) or "no weights"
        require(path, shown, len(values) == len(data.parts), f"a weight for each of the {len(data.parts)} sources")
        require(path, shown, min(values, default=-1) >= 0, "weights of 0 or more")
        require(path, shown, any(values), "weights of which one at least is above 0")
    starts = [0, *(phase.start for phase in data.source.phases)]
    require(
        "data.source.phases", starts[1:], all(a < b for a, b in itertools.pairwise(starts)), "in order, from step 1"
    )


def validation_contains_training(data: Data) -> bool:
    """Whether all of the training text, and perhaps more, is validation: people set this to see training's loss."""
    train, validation = split_spans(data)
    same_source = data.validation_source in (None, data.source)
    return same_source and validation.start <= train.start and train.stop <= validation.stop


def cautions(experiment: Experiment) -> list[str]:
    """Warnings, a line each, about settings that may be intended and are easily misunderstood."""
    if validation_contains_training(experiment.data):
        return ["data.validation holds all of the training text: its loss says nothing of other texts"]
    return []


def check_mesh(e: Experiment) -> None:
    for field in fields_of(c.Mesh):
        size = getattr(e.mesh, field.name)
        require(f"mesh.{field.name}", size, size >= 0, "at least 1, or 0 for the rest")
    if any(isinstance(block.mixer, LSTM) for block in blocks(e.model)):
        expected = "1 where a layer is recurrent: it reads time in order"
        require("mesh.context", e.mesh.context, e.mesh.context == 1, expected)
