"""Writes a model's weights as safetensors files under the names of a Hugging Face family, a tensor at a time.

launch/inference/export.py calls it. The safetensors package can only write tensors that are all in memory at once, so
the files are written here: eight bytes of length, a header of JSON, and the numbers, as the format's page says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.hf.family import Slot, Tensors
from train.huggingface.shards import FORMAT_NAMES, INDEX, ONE_FILE

STORED = {ours: theirs for theirs, ours in FORMAT_NAMES.items()}  # names of number formats in safetensors
ALIGNMENT = 8  # bytes: the numbers of a file begin at a multiple


class ExportError(ValueError):
    """A checkpoint can't be written as a Hugging Face folder. The message is one line."""


class Shard(NamedTuple):
    """A safetensors file: its name, and the shapes of its tensors in their order."""

    file: str
    shapes: dict[str, tuple[int, ...]]


def write_weights(
    folder: Path, groups: Sequence[Tensors], parameters: Mapping[str, jax.Array], dtype: str, shard_size: int
) -> list[Shard]:
    """Writes the files and, where they are several, their index. `groups`: model/hf/family.py's `tensor_map`.

    `parameters`: ours by path. A file holds at most `shard_size` bytes of numbers, or a single tensor. Raises
    ExportError where a number is not finite in this dtype.
    """
    shards = plan_shards(their_shapes(groups, parameters), jnp.dtype(dtype).itemsize, shard_size)
    tensors = their_tensors(groups, parameters, dtype)
    for shard in shards:
        write_shard(folder / shard.file, shard.shapes, dtype, tensors)
    if len(shards) > 1:
        total = sum(map(count, their_shapes(groups, parameters).values())) * jnp.dtype(dtype).itemsize
        files = {name: shard.file for shard in shards for name in shard.shapes}
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return shards


def plan_shards(shapes: Mapping[str, tuple[int, ...]], itemsize: int, shard_size: int) -> list[Shard]:
    """The tensors, in their order, in files of at most `shard_size` bytes; a larger tensor has a file of its own."""
    files: list[dict] = [{}]
    room = shard_size
    for name, shape in shapes.items():
        size = count(shape) * itemsize
        if files[-1] and size > room:
            files.append({})
            room = shard_size
        files[-1][name] = shape
        room -= size
    if len(files) == 1:
        return [Shard(ONE_FILE, files[0])]
    names = (f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1))
    return [Shard(name, file) for name, file in zip(names, files, strict=True)]


def write_shard(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, tensors: Iterator[tuple]) -> None:
    """Writes a file with the next tensors, whose names and shapes are these."""
    with file.open("xb") as opened:
        opened.write(header(shapes, dtype))
        for name, shape in shapes.items():
            given, array = next(tensors)
            assert given == name and array.shape == shape and array.flags.c_contiguous, name
            opened.write(array.reshape(-1).view(np.uint8))
        opened.flush()
        os.fsync(opened.fileno())


def header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """The beginning of a safetensors file: what its tensors are, and where."""
    entries: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # with a second entry writers differ in its order
    offset = 0
    for name, shape in shapes.items():
        end = offset + count(shape) * jnp.dtype(dtype).itemsize
        entries[name] = {"dtype": STORED[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def their_shapes(groups: Sequence[Tensors], parameters: Mapping[str, jax.Array]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of theirs, in the order in which they are written."""
    shapes: dict[str, tuple[int, ...]] = {}
    for group in groups:
        ours = [slot_shape(slot, parameters) for slot in group.ours]
        shapes |= zip(group.theirs, group.layout.their_shapes(ours), strict=True)
    return shapes


def their_tensors(
    groups: Sequence[Tensors], parameters: Mapping[str, jax.Array], dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of theirs and its name. The arrays of one group at a time are on the host."""
    for group in groups:
        tensors = group.layout.to_theirs([slot_array(slot, parameters) for slot in group.ours])
        for name, tensor in zip(group.theirs, tensors, strict=True):
            yield name, np.ascontiguousarray(rounded(tensor, dtype, name))


def slot_shape(slot: Slot, parameters: Mapping[str, jax.Array]) -> tuple[int, ...]:
    return parameters[slot.path].shape[slot.layer is not None :]


def slot_array(slot: Slot, parameters: Mapping[str, jax.Array]) -> np.ndarray:
    """The numbers of a slot, gathered to the host: a whole parameter, or one layer of it."""
    parameter = parameters[slot.path]
    return np.asarray(parameter if slot.layer is None else parameter[slot.layer])


def rounded(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The numbers in this dtype, each rounded to the nearest. Raises ExportError where one is not finite then."""
    with np.errstate(over="ignore"):  # looked for below
        numbers = array.astype(jnp.dtype(dtype))
    if np.isfinite(numbers).all():
        return numbers
    if not np.isfinite(array).all():
        raise ExportError(f"{name} holds numbers that are not finite; take another checkpoint")
    raise ExportError(
        f"{name} goes up to {np.abs(array).max():,.0f}, and {dtype} only to {float(jnp.finfo(dtype).max):,.0f}; "
        "take --dtype bfloat16 or float32"
    )


def count(shape: tuple[int, ...]) -> int:
    """How many numbers an array of this shape has."""
    return int(np.prod(shape, dtype=np.int64))
