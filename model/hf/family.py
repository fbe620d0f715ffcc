"""What a family of Hugging Face's models is: a reader and a writer of configs, and tables of names by kind of part.

`tensor_map` lists, for a model of ours, all tensors of a checkpoint of theirs and where each stands in ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model import config as c
from model.hf.config_reader import ConfigReader, HuggingFaceError
from model.hf.layouts import Layout


class Entry(NamedTuple):
    """A row of a name table: tensors of theirs, the parameters of ours that hold the same numbers, and how.

    Names of theirs stand behind the family's prefix of a layer, ours behind that of a block; in the table of c.Model
    they are whole. `{expert}` stands for every expert's number. Where the model has none of a row's parameters (a bias
    that is off) the row does not count.
    """

    theirs: str
    ours: str | tuple[str, ...]
    layout: Layout


@dataclass(frozen=True)
class Family:
    """A family of models.

    `read` makes our config of theirs, `write` theirs of ours (what it can't say is lost: families.py compares).
    `tables`: class of a part of our config -> its Entries; c.Block's are the norms of a layer, c.Model's what stands
    outside the layers. `layer`: the prefix of a layer's names, with `{layer}` for its number. `prefix`: of all names
    but the output's; files of the bare model lack it. `defaults`: the values of keys that a config lacks, those of the
    family's own; `aliases`: second names of keys; `inert`: keys that change nothing that a model computes. `buffers`:
    patterns of tensors in old files that are no parameters.
    """

    model_type: str
    architecture: str
    read: Callable[[ConfigReader], c.Model]
    write: Callable[[c.Model], dict]
    tables: Mapping[type, tuple[Entry, ...]]
    layer: str
    prefix: str
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    buffers: tuple[str, ...] = ()


class Slot(NamedTuple):
    """A place in our parameters: the path of one, and the index on its axis L; None outside the layers."""

    path: str
    layer: int | None


class Tensors(NamedTuple):
    """Tensors of theirs, by name, that hold the same numbers as these slots of ours."""

    theirs: tuple[str, ...]
    ours: tuple[Slot, ...]
    layout: Layout


def tensor_map(family: Family, model: c.Model, paths: set[str]) -> list[Tensors]:
    """Every tensor of theirs and where it stands in ours. `paths`: of all parameters of the model (model/paths.py).

    Raises HuggingFaceError where a parameter of ours has no name of theirs.
    """
    found = list(outside_layers(family, paths))
    number = 0
    for stack_index, stack in enumerate(model.layers):
        for repeat in range(stack.repeats):
            for index, block in enumerate(stack.pattern):
                prefix = f"stacks.{stack_index}.pattern.{index}."
                found += in_layer(family, block, family.layer.format(layer=number), prefix, repeat, paths)
                number += 1
    unnamed = paths - {slot.path for tensors in found for slot in tensors.ours}
    if unnamed:
        raise HuggingFaceError(f"{family.architecture} has no tensor for {', '.join(sorted(unnamed)[:4])}")
    return found


def outside_layers(family: Family, paths: set[str]) -> Iterator[Tensors]:
    for entry in family.tables[c.Model]:
        if entry.ours in paths:
            yield Tensors((entry.theirs,), (Slot(entry.ours, None),), entry.layout)


def in_layer(
    family: Family, block: c.Block, their_prefix: str, our_prefix: str, repeat: int, paths: set[str]
) -> Iterator[Tensors]:
    """The tensors of one layer."""
    for part in (block, block.mixer, block.feed_forward):
        for entry in family.tables.get(type(part), ()):
            ours = (entry.ours,) if isinstance(entry.ours, str) else entry.ours
            slots = tuple(Slot(our_prefix + path, repeat) for path in ours)
            if {slot.path for slot in slots} <= paths:
                experts = part.experts if "{expert}" in entry.theirs else 1
                names = tuple(their_prefix + entry.theirs.format(expert=expert) for expert in range(experts))
                yield Tensors(names, slots, entry.layout)
