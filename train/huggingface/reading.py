"""Reads a Hugging Face checkpoint: first what it is, with every check, then its weights onto the devices.

`skald import` calls `open_checkpoint` and `load_weights`; export reads its own files with them before it publishes.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from model import config as c
from model.hf.config_reader import HuggingFaceError
from model.hf.families import read_config
from model.hf.family import Family, Slot, Tensors, tensor_map
from model.paths import parameters_by_path
from model.sharding import make_mesh, partition_spec
from model.transformer import Transformer, abstract_model
from train.huggingface.shards import FORMAT_NAMES, StoredTensor, and_more, same_numbers, stored_tensors

ALIGNMENT = 64  # bytes: JAX takes NumPy's memory as it is where it begins at a multiple, and else copies it


@dataclass(frozen=True)
class HuggingFaceCheckpoint:
    """A checkpoint whose tensors are all there, in the right shapes: `model` is our config of it.

    `config`: its config.json. `tensors`: where each tensor is stored, by its whole name. `layout`: where each stands in
    our parameters. `dtype`: of the numbers in its files, the widest. `warnings`: lines for the user.
    """

    folder: Path
    family: Family
    model: c.Model
    config: dict
    tensors: dict[str, StoredTensor]
    layout: list[Tensors]
    dtype: str
    warnings: tuple[str, ...] = ()


def open_checkpoint(folder: Path) -> HuggingFaceCheckpoint:
    """Reads the config and the headers of the tensors, and checks that they belong together.

    Raises HuggingFaceError, ConfigError.
    """
    if not folder.is_dir():
        raise HuggingFaceError(f"{folder}: {'a file' if folder.exists() else 'no such folder'}; name a folder with "
                               "config.json and *.safetensors")  # fmt: skip
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").is_file():
        raise HuggingFaceError(f"{folder}: adapters alone; --base RUN names the run that they adapt")
    config = read_json(folder / "config.json")
    family, model = read_config(config)
    stored = stored_tensors(folder)
    model, warnings = untie_different_output(family, model, whole_names(family, stored))
    parameters = parameters_by_path(abstract_model(model))
    layout = tensor_map(family, model, set(parameters))
    tensors = check_tensors(folder, family, stored, expected_shapes(layout, parameters))
    formats = {tensor.format for tensor in tensors.values()}
    dtype = next(name for key, name in FORMAT_NAMES.items() if key in formats)
    return HuggingFaceCheckpoint(folder, family, model, config, tensors, layout, dtype, warnings)


def read_json(file: Path) -> dict:
    """An object of a JSON file. Raises HuggingFaceError naming the place where it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HuggingFaceError(f"{file}: no such file; a Hugging Face checkpoint has one") from None
    except (ValueError, RecursionError, OSError) as error:
        raise HuggingFaceError(f"{file}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise HuggingFaceError(f"{file}: not a JSON object")
    return value


def whole_names(family: Family, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors by names with the family's prefix, which files of the bare model lack."""
    outside = {entry.theirs for entry in family.tables[c.Model]}
    whole = {name for name in stored if name.startswith(family.prefix) or name in outside}
    added = {family.prefix + name: tensor for name, tensor in stored.items() if name not in whole}
    return added | {name: stored[name] for name in whole}


def untie_different_output(family: Family, model: c.Model, stored: dict[str, StoredTensor]):
    """The model, untied where its files hold an output projection other than the embedding, and lines that say so."""
    names = {entry.ours: entry.theirs for entry in family.tables[c.Model]}
    table, output = (stored.get(names.get(path)) for path in ("embedding.table", "output"))
    if not model.tied or table is None or output is None:
        return model, ()
    if table.format in FORMAT_NAMES and output.format in FORMAT_NAMES and same_numbers(table, output):
        return model, ()
    line = f"{names['output']} differs from {names['embedding.table']}: taken as two, though config.json ties them"
    return dataclasses.replace(model, tied=False), (line,)


def expected_shapes(layout: list[Tensors], parameters: dict[str, nnx.Param]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of theirs."""
    return {
        name: shape
        for tensors in layout
        for name, shape in zip(
            tensors.theirs, tensors.layout.their_shapes(our_shapes(tensors, parameters)), strict=True
        )
    }


def our_shapes(tensors: Tensors, parameters: dict[str, nnx.Param]) -> list[tuple[int, ...]]:
    """The shapes of our arrays, of one layer each."""
    return [parameters[slot.path].shape[slot.layer is not None :] for slot in tensors.ours]


def check_tensors(
    folder: Path, family: Family, stored: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """The tensors that are needed, by whole names. Raises HuggingFaceError naming all that stands in the way."""
    found = whole_names(family, stored)
    ignored = {name for name in found for pattern in family.buffers if fnmatch.fnmatchcase(name, pattern)}
    ignored |= {entry.theirs for entry in family.tables[c.Model] if entry.ours == "output"}  # equal to a tied table
    both = expected.keys() & found.keys()
    shapes = [f"{n} is {list(found[n].shape)}, not {list(expected[n])}" for n in both if found[n].shape != expected[n]]
    faults = {
        "missing": expected.keys() - found.keys(),
        "extra": found.keys() - expected.keys() - ignored,
        "of another shape": shapes,
        "of a format that is not read (float32, bfloat16 and float16 are)": [
            f"{name} is {found[name].format}" for name in both if found[name].format not in FORMAT_NAMES
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {first_names(names)}" for fault, names in faults.items() if names)
        raise HuggingFaceError(f"{folder}: its tensors are not those of its config.json: {listed}")
    return {name: found[name] for name in expected}


def first_names(names: Iterable[str], most: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + and_more(names[most:])


def import_mesh(model: c.Model) -> Mesh:
    """All devices, each with as small a share of every matrix as the model's width allows."""
    shares = math.gcd(model.width, jax.device_count())
    return make_mesh({"replica": jax.device_count() // shares, "data": shares})


def load_weights(checkpoint: HuggingFaceCheckpoint, mesh: Mesh) -> Transformer:
    """The weights in float32, in their storage sharding on a mesh: one parameter after another, by each device what it
    holds of it."""
    model = abstract_model(checkpoint.model)
    parameters = parameters_by_path(model)
    arrays = []
    for path, parameter in parameters.items():
        shape = parameter.shape
        with jax.set_mesh(mesh):
            sharding = NamedSharding(mesh, partition_spec(parameter.axes, shape, "storage"))
        read = parameter_reader(checkpoint, path, parameters)
        arrays.append(jax.block_until_ready(jax.make_array_from_callback(shape, sharding, read)))
    return jax.tree.unflatten(jax.tree.structure(model), arrays)


def parameter_reader(
    checkpoint: HuggingFaceCheckpoint, path: str, parameters: dict[str, nnx.Param]
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """A function that reads the part of a parameter that an index of slices names."""
    sources = {slot: tensors for tensors in checkpoint.layout for slot in tensors.ours if slot.path == path}
    shape = parameters[path].shape

    def layer_view(layer: int | None) -> np.ndarray:
        slot = Slot(path, layer)
        tensors = sources[slot]
        views = [checkpoint.tensors[name].view() for name in tensors.theirs]
        return tensors.layout.to_ours(views, our_shapes(tensors, parameters))[tensors.ours.index(slot)]

    def read(index: tuple[slice, ...]) -> np.ndarray:
        ranges = [range(size)[part] for size, part in zip(shape, index, strict=True)]
        part = empty_aligned(tuple(map(len, ranges)))
        if Slot(path, None) in sources:
            part[...] = layer_view(None)[index]
        else:
            for target, layer in zip(part, ranges[0], strict=True):
                target[...] = layer_view(layer)[index[1:]]
        return part

    return read


def empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array whose memory JAX can take over on a CPU, instead of copying it."""
    memory = np.empty(4 * math.prod(shape) + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + 4 * math.prod(shape)].view(np.float32).reshape(shape)
