"""All families, and the way from a config.json to a model of ours and back. train/huggingface.py calls it."""

from __future__ import annotations

import dataclasses

from model import config as c
from model.hf.config_reader import ConfigReader, HuggingFaceError
from model.hf.family import Family
from model.hf.gemma import GEMMA2, GEMMA3
from model.hf.gpt2 import GPT2
from model.hf.llama import LLAMA
from model.hf.mistral import MISTRAL, MIXTRAL
from model.hf.olmo2 import OLMO2
from model.hf.qwen import QWEN2, QWEN3

ALL = (GPT2, LLAMA, QWEN2, QWEN3, MISTRAL, GEMMA2, GEMMA3, OLMO2, MIXTRAL)
FAMILIES: dict[str, Family] = {family.model_type: family for family in ALL}


def read_config(config: dict) -> tuple[Family, c.Model]:
    """The family of a config.json, and our config of the same model.

    Raises HuggingFaceError naming what is missing, of another type, not built here, or unknown.
    """
    reader = ConfigReader(config, {"architectures": None})
    family = reader.choice("model_type", FAMILIES)
    if config.get("quantization_config"):
        reader.refuse("quantization_config: quantized weights are not read here; take the checkpoint before that")
    architectures = reader.list("architectures", null=None)
    if architectures and family.architecture not in architectures:
        reader.refuse(
            f"architectures={architectures!r}: of {family.model_type} {family.architecture} alone is built here"
        )
    return family, read_model(family, config)


def read_model(family: Family, config: dict) -> c.Model:
    """Our config of a model whose family is known, every key of theirs read."""
    reader = ConfigReader(without_aliases(config, family), family.defaults)
    reader.expect("is_encoder_decoder", False)
    reader.expect("pruned_heads", {})
    model = family.read(reader)
    reader.refuse_unread(family.inert)
    return model


def without_aliases(config: dict, family: Family) -> dict:
    """The config with the keys that the family takes under a second name under their first one."""
    renamed = dict(config)
    for alias, key in family.aliases.items():
        if alias in renamed:
            value = renamed.pop(alias)
            if renamed.setdefault(key, value) != value:
                raise HuggingFaceError(
                    f"config.json: {alias}={value!r} and {key}={renamed[key]!r} are two names of one"
                )
    return renamed


def write_config(model: c.Model, preferred: str | None = None) -> tuple[Family, dict]:
    """A family that can say what this model computes, the preferred one first, and its config.json.

    Raises HuggingFaceError with the fields that stand in the way of the family that is nearest.
    """
    obstacles = {}
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != preferred):
        config, found = attempt(family, model)
        if config is not None and not found:
            return family, config
        obstacles[family.architecture] = config is None, found
    nearest, (_, fields) = min(obstacles.items(), key=lambda entry: (entry[1][0], len(entry[1][1])))
    raise HuggingFaceError(
        f"no architecture of transformers computes what this model does; of {nearest} these stand in the way: "
        f"{', '.join(fields[:6])}{' …' if fields[6:] else ''}"
    )


def attempt(family: Family, model: c.Model) -> tuple[dict | None, list[str]]:
    """The family's config.json of the model, None where it has no words for a part; and what stands in the way."""
    foreign = foreign_parts(family, model)
    if foreign:
        return None, foreign
    try:
        config = {"architectures": [family.architecture], "model_type": family.model_type} | family.write(model)
        return config, differences(read_model(family, config), model)
    except HuggingFaceError as error:
        return None, [str(error)]


def foreign_parts(family: Family, model: c.Model) -> list[str]:
    """The parts, as `layers.3.mixer=LSTM`, of which the family knows no names."""
    return [
        f"layers.{number}.{name}={type(getattr(block, name)).__name__}"
        for number, block in enumerate(c.blocks(model))
        for name in ("mixer", "feed_forward")
        if type(getattr(block, name)) not in family.tables
    ]


def differences(theirs: c.Model, ours: c.Model) -> list[str]:
    """The fields, as `layers.3.mixer.window=16`, in which a model read back from a family's config differs from ours.

    How layers are stacked, how weights were initialised and what training alone computes is no difference."""
    pairs = [("", outside_layers(theirs), outside_layers(ours))]
    blocks = c.blocks(theirs), c.blocks(ours)
    if len(blocks[0]) != len(blocks[1]):
        return [f"{len(blocks[1])} layers"]
    pairs += [
        (f"layers.{i}.", inference(one), inference(two)) for i, (one, two) in enumerate(zip(*blocks, strict=True))
    ]
    return [line for prefix, one, other in pairs for line in field_differences(prefix, one, other)]


def outside_layers(model: c.Model) -> c.Model:
    return dataclasses.replace(model, layers=(), init=c.Init(), dropout=0.0)


def inference(block: c.Block) -> c.Block:
    """The block without what training alone computes, and with its defaults written out."""
    mixer, feed_forward = block.mixer, block.feed_forward
    if isinstance(mixer, c.Attention):
        scale = mixer.head_width**-0.5 if mixer.score_scale is None else mixer.score_scale
        value_width = mixer.value_width or mixer.head_width
        mixer = dataclasses.replace(mixer, dropout=0.0, score_scale=scale, value_width=value_width)
    if isinstance(feed_forward, c.MoE):
        feed_forward = dataclasses.replace(feed_forward, balance_loss=0.0, router_z_loss=0.0)
    return dataclasses.replace(block, mixer=mixer, feed_forward=feed_forward, dropout=0.0)


def field_differences(prefix: str, one, other) -> list[str]:
    """The paths and the other's values of fields that differ between two dataclasses."""
    lines = []
    for field in dataclasses.fields(other):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if left == right:
            continue
        if dataclasses.is_dataclass(right) and type(left) is type(right):
            lines += field_differences(f"{prefix}{field.name}.", left, right)
        else:
            lines.append(f"{prefix}{field.name}={right!r}")
    return lines
