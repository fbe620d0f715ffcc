"""What a run that starts from another's weights takes over with them: the model and the tokenizer.

launch/commands/train.py calls it at the start and on every resumption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass, replace

from data.config import Tokenizer
from data.tokenizers import tokenizer as tokenizers
from launch.experiments import apply_settings
from model.config import Model, blocks
from train import fields
from train.config import Experiment

START_PROMPTS = "data.tokenizer.start_prompts"  # of a tokenizer's settings the one that changes no id
MOST_LINES = 8  # of differences within the layers; where there are more, one line tells of them all


def settings_on_top(settings: Sequence[str]) -> list[str]:
    """Those of the command line's settings that stand on top of what is taken over with weights."""
    return [setting for setting in settings if setting.startswith(("model.", f"{START_PROMPTS}="))]


def inherit(
    experiment: Experiment, metadata: dict, theirs: Model, settings: Sequence[str], report: Callable
) -> Experiment:
    """The experiment with the model and the tokenizer of a checkpoint, given its metadata, and of the command line's
    settings those `settings_on_top`. `theirs`: the config of its model. Reports where the config asked for something
    else. Raises ConfigError."""
    set_paths = {setting.partition("=")[0] for setting in settings}
    experiment = with_tokenizer_of(metadata, experiment, set_paths, report)
    for line in model_differences(experiment.model, theirs, set_paths):
        report(line)
    return apply_settings(replace(experiment, model=theirs), settings)


def with_tokenizer_of(metadata: dict, experiment: Experiment, set_paths: set[str], report: Callable) -> Experiment:
    """The experiment with the tokenizer of a checkpoint, given its metadata. Reports where it asked for another one."""
    config, huggingface = metadata["config"], metadata["huggingface"]
    theirs = fields.from_json(Tokenizer, config["data"]["tokenizer"] if config else huggingface["tokenizer"])
    ours = experiment.data.tokenizer
    if theirs != (replace(ours, start_prompts=theirs.start_prompts) if START_PROMPTS in set_paths else ours):
        report(f"the weights know the tokens of {describe_tokenizer(theirs)} only: it takes the place of the config's")
    return replace(experiment, data=replace(experiment.data, tokenizer=theirs))


def inherited_tokenizer(metadata: dict, config: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint, given its metadata, that starts prompts as `config` says. Raises FieldError where
    it has no token that does."""
    stored = metadata["tokenizer"]
    if config.start_prompts is None:
        return tokenizers.tokenizer_from_json(stored)
    tokenizers.check_fields(config)
    return tokenizers.tokenizer_from_json(stored | {"start_prompts": config.start_prompts})


def describe_tokenizer(config: Tokenizer) -> str:
    return f"their {config.kind} tokenizer" + (f" ({config.path})" if config.path else "")


def model_differences(ours: Model, theirs: Model, set_paths: set[str]) -> list[str]:
    """A line for each field of a config's model that gives way to that of the weights. How weights are initialised, and
    fields that the command line sets, make no difference."""
    ours = replace(ours, init=theirs.init, vocab_size=ours.vocab_size or theirs.vocab_size)
    outside = part_differences("model", replace(ours, layers=()), replace(theirs, layers=()))
    in_layers = part_differences("model.layers", ours.layers, theirs.layers)
    if len(in_layers) > MOST_LINES or any(path == "model.layers" for path, _, _ in in_layers):
        in_layers = [("model.layers", describe_layers(ours), describe_layers(theirs))]
    return [
        f"{path}: {there} as in the weights, not the config's {here}"
        for path, here, there in outside + in_layers
        if path not in set_paths
    ]


def part_differences(path: str, ours, theirs) -> list[tuple[str, str, str]]:
    """(path, our value, theirs) of each difference between two parts; parts of two kinds are one difference."""
    if ours == theirs:
        return []
    if is_dataclass(theirs) and type(ours) is type(theirs):
        pairs = [(field.name, getattr(ours, field.name), getattr(theirs, field.name)) for field in fields_of(theirs)]
    elif isinstance(theirs, tuple) and len(ours) == len(theirs):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(ours, theirs, strict=True))]
    else:
        return [(path, *(type(part).__name__ if is_dataclass(part) else repr(part) for part in (ours, theirs)))]
    return [line for name, one, other in pairs for line in part_differences(f"{path}.{name}", one, other)]


def describe_layers(model: Model) -> str:
    """The number of layers and the kinds of their parts, as "12 of Attention + MLP"."""
    kinds = dict.fromkeys(
        " + ".join(type(part).__name__ for part in (block.mixer, block.feed_forward) if part is not None)
        for block in blocks(model)
    )
    return f"{len(blocks(model))} of {', '.join(kinds)}"
