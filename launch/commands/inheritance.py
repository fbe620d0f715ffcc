"""What a run that starts from another's weights takes over with them: the model and the tokenizer.

launch/commands/train.py calls it at the start and on every resumption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.config import Tokenizer
from launch.experiments import apply_settings
from model.config import Init, Model, blocks
from train import fields
from train.config import Experiment

MOST_LINES = 8  # of differences within the layers; where there are more, one line tells of them all


def inherit(
    experiment: Experiment, metadata: dict, theirs: Model, settings: Sequence[str], report: Callable
) -> Experiment:
    """The experiment with the model and the tokenizer of a checkpoint, given its metadata, and the command line's
    `settings` of the model on top. `theirs`: the config of its model. Reports where the config asked for something
    else. Raises ConfigError."""
    experiment = with_tokenizer_of(metadata, experiment, report)
    set_paths = {setting.partition("=")[0] for setting in settings}
    for line in model_differences(experiment.model, theirs, set_paths):
        report(line)
    return apply_settings(replace(experiment, model=theirs), settings)


def with_tokenizer_of(metadata: dict, experiment: Experiment, report: Callable) -> Experiment:
    """The experiment with the tokenizer of a checkpoint, given its metadata. Reports where it asked for another one."""
    config, huggingface = metadata["config"], metadata["huggingface"]
    theirs = fields.from_json(Tokenizer, config["data"]["tokenizer"] if config else huggingface["tokenizer"])
    if theirs != experiment.data.tokenizer:
        report(f"the weights know the tokens of {describe_tokenizer(theirs)} only: it takes the place of the config's")
    return replace(experiment, data=replace(experiment.data, tokenizer=theirs))


def describe_tokenizer(config: Tokenizer) -> str:
    return f"their {config.kind} tokenizer" + (f" ({config.path})" if config.path else "")


def model_differences(ours: Model, theirs: Model, set_paths: set[str]) -> list[str]:
    """A line for each field of a config's model that gives way to that of the weights. How weights are initialised, and
    fields that the command line sets, make no difference."""
    outside = [
        replace(model, layers=(), init=Init(), vocab_size=model.vocab_size or theirs.vocab_size)
        for model in (ours, theirs)
    ]
    fields_outside = fields.differences(*outside)
    in_layers = [(f"layers.{path}", one, other) for path, one, other in fields.differences(ours.layers, theirs.layers)]
    if len(in_layers) > MOST_LINES:
        in_layers = [("layers", describe_layers(ours), describe_layers(theirs))]
    return [
        f"model.{path}: the weights' {there!r} takes the place of the config's {here!r}"
        for path, here, there in [*fields_outside, *in_layers]
        if f"model.{path}" not in set_paths
    ]


def describe_layers(model: Model) -> str:
    """The number of layers and the kinds of their parts, as "12 of Attention + MLP"."""
    kinds = dict.fromkeys(
        " + ".join(type(part).__name__ for part in (block.mixer, block.feed_forward) if part is not None)
        for block in blocks(model)
    )
    return f"{len(blocks(model))} of {', '.join(kinds)}"
