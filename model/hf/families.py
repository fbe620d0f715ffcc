"""All families, and the way from a config.json to a model of ours and back."""

from __future__ import annotations

import dataclasses

from model import config as c
from model.hf.config_reader import ConfigReader, HuggingFaceError
from model.hf.family import Family
from model.hf.gpt2 import GPT2

FAMILIES: dict[str, Family] = {family.model_type: family for family in (GPT2,)}


def read_config(config: dict) -> tuple[Family, c.Model]:
    """The family of a config.json, and our config of the same model.

    Raises HuggingFaceError naming what is missing, of another type, not built here, or unknown.
    """
    reader = ConfigReader(config)
    family = reader.choice("model_type", FAMILIES)
    model = family.read(reader)
    reader.refuse_unread(family.inert)
    return family, model


def write_config(model: c.Model, preferred: str | None = None) -> tuple[Family, dict]:
    """A family that can say what this model computes, the preferred one first, and its config.json.

    Raises HuggingFaceError with the fields that stand in the way of the family that is nearest.
    """
    obstacles = {}
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != preferred):
        try:
            config = {"architectures": [family.architecture], "model_type": family.model_type} | family.write(model)
            obstacles[family.architecture] = differences(family.read(ConfigReader(config)), model)
        except (AttributeError, IndexError, HuggingFaceError, ZeroDivisionError):  # a part that it has no words for
            continue
        if not obstacles[family.architecture]:
            return family, config
    nearest, fields = min(obstacles.items(), key=lambda entry: len(entry[1]), default=("", []))
    hint = f"; of {nearest} these fields stand in the way: {', '.join(fields[:6])}" if nearest else ""
    raise HuggingFaceError(f"no architecture of transformers computes what this model does{hint}")


def differences(theirs: c.Model, ours: c.Model) -> list[str]:
    """The fields, as `layers.3.mixer.window=16`, in which a model read back from a family's config differs from ours.

    How layers are stacked and how weights were initialised is no difference."""
    pairs = [("", outside(theirs), outside(ours))]
    blocks = c.blocks(theirs), c.blocks(ours)
    if len(blocks[0]) != len(blocks[1]):
        return [f"{len(blocks[1])} layers"]
    pairs += [(f"layers.{i}.", one, other) for i, (one, other) in enumerate(zip(*blocks, strict=True))]
    return [line for prefix, one, other in pairs for line in field_differences(prefix, one, other)]


def outside(model: c.Model) -> c.Model:
    return dataclasses.replace(model, layers=(), init=c.Init())


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
