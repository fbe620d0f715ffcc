"""The safetensors files of a Hugging Face folder: which tensors they hold, and views of them mapped to memory.

train/huggingface/reading.py makes a model of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from model.hf.config_reader import HuggingFaceError

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
FORMATS = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
FORMAT_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # from the one that holds the most numbers


class StoredTensor(NamedTuple):
    """A tensor in a file: its format by safetensors' name, its shape, and the offset of its first byte."""

    file: Path
    format: str
    shape: tuple[int, ...]
    begin: int

    def view(self) -> np.ndarray:
        """The tensor, mapped to memory: what is used of it is read, and nothing stays open behind the last view.

        Mapped anew for each use, so that pages of a file do not pile up in the process's memory."""
        return np.memmap(self.file, FORMATS[self.format], "r", self.begin, self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder by name, from one file or from the shards of an index. Reads no tensor.

    Raises HuggingFaceError where there is no such file, only a pickle, or one that is damaged.
    """
    if (folder / ONE_FILE).is_file():
        return tensors_of_file(folder / ONE_FILE)
    if (folder / INDEX).is_file():
        return tensors_of_shards(folder, read_index(folder / INDEX))
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise HuggingFaceError(
            f"{folder / pickles[0]}: a pickle, which may run any program when it is read; if you trust it, convert it: "
            f"{conversion(folder)}"
        )
    raise HuggingFaceError(f"{folder}: no {ONE_FILE} in it, and no {INDEX}")


def conversion(folder: Path) -> str:
    """The command that writes a folder anew, with its tensors as safetensors."""
    classes = ["AutoModelForCausalLM"]
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        classes.append("AutoTokenizer")
    paths = str(folder), f"{folder}-safetensors"
    calls = [f"t.{name}.from_pretrained({paths[0]!r}).save_pretrained({paths[1]!r})" for name in classes]
    return f'python -c "import transformers as t; {"; ".join(calls)}"'


def read_index(file: Path) -> dict[str, str]:
    """The name of each tensor's shard. Raises HuggingFaceError."""
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        shards = None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise HuggingFaceError(f'{file}: not an index of shards; it is JSON with "weight_map": {{tensor: file}}')
    return shards


def tensors_of_shards(folder: Path, shards: dict[str, str]) -> dict[str, StoredTensor]:
    """The tensors of all shards that an index names. Raises HuggingFaceError."""
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or shard == "..":
            raise HuggingFaceError(f"{folder / INDEX}: {shard!r} is no file of this folder; a shard is a name alone")
        if not (folder / shard).is_file():
            raise HuggingFaceError(f"{folder / INDEX} names {shard}, which is not there; the download is not complete")
        tensors = tensors_of_file(folder / shard)
        found |= {name: tensor for name, tensor in tensors.items() if shards.get(name, shard) == shard}
    absent = sorted(name for name, shard in shards.items() if name not in found)
    if absent:
        raise HuggingFaceError(
            f"{folder / INDEX}: {absent[0]} is not in {shards[absent[0]]}{and_more(absent[1:])}; the files do not "
            "belong together"
        )
    return found


def tensors_of_file(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. Raises HuggingFaceError where it is damaged."""
    try:
        with safe_open(file, framework="numpy"):  # checks the header, and that all of every tensor is there
            pass
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise HuggingFaceError(f"{file}: not a whole safetensors file ({error}); get it anew") from None
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def same_numbers(one: StoredTensor, other: StoredTensor, rows: int = 1024) -> bool:
    """Whether two tensors are equal, NaNs included; compared a few rows at a time."""
    if one.shape != other.shape:
        return False
    views = one.view(), other.view()
    return all(
        np.array_equal(*(view[row : row + rows].astype(np.float32).view(np.uint32) for view in views))
        for row in range(0, one.shape[0], rows)
    )


def and_more(names: list[str]) -> str:
    """Text for an error message behind the first of some names."""
    return f" (and {len(names)} more)" if names else ""
