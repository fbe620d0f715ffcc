"""Adapter folders of PEFT, Hugging Face's library for LoRA: reads one for a model of ours, and writes one.

A folder holds adapter_config.json and adapter_model.safetensors, with matrices A [R, I] and B [O, R] for each weight.
Ours are their transposes: down [I, R], up [R, O]. Where several weights of ours are one of theirs (query, key and value
of GPT-2), theirs has one A for all.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from data.whole_file import whole_file
from model.config import LoRA, Model
from model.hf.config_reader import HuggingFaceError
from model.hf.family import Family, Slot, Tensors, tensor_map
from model.hf.layouts import Joined, Layout, Linear, Matrix
from model.layers import stacked_axes
from model.lora import Adapters, create_adapters, untie
from model.paths import parameters_by_path
from model.transformer import Transformer
from train.huggingface.shards import StoredTensor, tensors_of_file

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
SUFFIXES = (".lora_A.weight", ".lora_B.weight")
TABLE_SUFFIXES = (".lora_embedding_A", ".lora_embedding_B")
BASE_SUFFIX = ".base_layer.weight"  # PEFT stores the weight itself too, of an embedding or an output
USED = {"peft_type", "r", "lora_alpha", "init_lora_weights"}
INERT = {  # they choose modules, which the tensors name; or matter in training alone; or say where the base was
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "target_modules", "task_type",
}  # fmt: skip
PLAIN_INITS = (True, False, "gaussian", "orthogonal")  # those that leave the base as it is


class Factors(NamedTuple):
    """An adapter of one layer, by the place of its weight: down [I, R] and up [R, O], inputs and outputs flat."""

    down: np.ndarray
    up: np.ndarray


def read_adapters(folder: Path, family: Family, base: Transformer) -> tuple[LoRA, Adapters]:
    """The adapters of a folder for this base, and the choice of paths that makes such adapters. Their arrays are
    NumPy's. Layers without an adapter get one of zeros.

    Raises HuggingFaceError naming what is not built, and tensors that do not belong to the base.
    """
    rank, alpha = read_config(folder)
    tensors, untied = adapter_tensors(folder), untie(base)
    weights = parameters_by_path(untied)
    found: dict[Slot, Factors] = {}
    for module, place in modules(family, untied.config, weights).items():
        ends = (*suffixes(place), BASE_SUFFIX)
        matrix_a, matrix_b, base_weight = (tensors.pop(PREFIX + module + end, None) for end in ends)
        check_base_weight(folder, base_weight, place, weights)
        if matrix_a or matrix_b:
            sizes = [layer_sizes(slot, weights[slot.path]) for slot in place.ours]
            outputs = [size for _, size in sizes]
            check_shapes(folder, module, (matrix_a, matrix_b), ((rank, sizes[0][0]), (sum(outputs), rank)))
            parts = np.split(matrix_b.view().astype(np.float32), np.cumsum(outputs)[:-1])
            down = matrix_a.view().astype(np.float32).T
            found |= {slot: Factors(down, part.T) for slot, part in zip(place.ours, parts, strict=True)}
    if tensors or not found:
        shown = ", ".join(sorted(tensors)[:4]) or "no adapter"
        raise HuggingFaceError(f"{folder / WEIGHTS}: {shown}: the base has no such weight that takes an adapter")
    paths = dict.fromkeys(slot.path for slot in found)
    lora = LoRA(rank, alpha, tuple(paths))
    adapters = jax.eval_shape(lambda: create_adapters(untied.config, lora, jax.random.key(0)))
    for path, adapter in adapters.items():
        factors = stack(path, found, weights[path], rank)
        adapter.down, adapter.up = adapter.down.replace(factors.down), adapter.up.replace(factors.up)
    return lora, adapters


def read_config(folder: Path) -> tuple[int, float]:
    """The rank and the alpha of an adapter folder. Raises HuggingFaceError naming what is not built."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], config.get("r"), config.get("lora_alpha")
    except FileNotFoundError:
        raise HuggingFaceError(f"{file}: no such file; a folder of PEFT's adapters has one") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HuggingFaceError(f"{file}: not the config of adapters ({error!r})") from None
    if kind != "LORA":
        raise HuggingFaceError(f"{file}: peft_type={kind!r} is not built; LORA is")
    if not (isinstance(rank, int) and rank >= 1 and isinstance(alpha, int | float) and alpha > 0):
        raise HuggingFaceError(f"{file}: r={rank!r}, lora_alpha={alpha!r}: must be a whole number from 1, and above 0")
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        raise HuggingFaceError(
            f"{file}: init_lora_weights={config['init_lora_weights']!r} may have changed the base; PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=…) makes plain adapters of them"
        )
    off = {key: value in (None, False, "none") or value in ([], {}) for key, value in config.items()}
    unbuilt = [key for key in sorted(config.keys() - USED - INERT) if not off[key]]
    if unbuilt:
        raise HuggingFaceError(f"{file}: {', '.join(f'{k}={config[k]!r}' for k in unbuilt)}: not built; plain LoRA is")
    return rank, float(alpha)


def adapter_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of an adapter folder by name. Raises HuggingFaceError."""
    if (folder / WEIGHTS).is_file():
        return tensors_of_file(folder / WEIGHTS)
    if (folder / PICKLE).is_file():
        convert = (
            f"import torch, safetensors.torch as s; s.save_file(torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')"
        )
        raise HuggingFaceError(
            f"{folder / PICKLE}: a pickle, which may run any program when it is read; if you trust it, convert it in "
            f'its folder: python -c "{convert}"'
        )
    raise HuggingFaceError(f"{folder}: no {WEIGHTS} in it")


def modules(family: Family, model: Model, weights: dict) -> dict[str, Tensors]:
    """Their modules that take adapters here, by name, and where the weight of each stands in ours."""
    found = tensor_map(family, model, set(weights))
    return {place.theirs[0].removesuffix(".weight"): place for place in found if is_matrix(place.layout)}


def is_matrix(layout: Layout) -> bool:
    """Whether inputs and outputs, flat, are in the same order in ours and theirs; joined ones along the outputs."""
    if isinstance(layout, Joined):
        return is_matrix(layout.part) and layout.axis == (1 if isinstance(layout.part, Matrix) else 0)
    return isinstance(layout, Linear | Matrix)


def suffixes(place: Tensors) -> tuple[str, str]:
    """The ends of the names of A and B: those of an embedding have other names."""
    return TABLE_SUFFIXES if place.ours[0].path.endswith("table") else SUFFIXES


def layer_sizes(slot: Slot, weight: nnx.Param) -> tuple[int, int]:
    """The numbers of inputs and of outputs of one layer's weight."""
    shape = weight.shape[slot.layer is not None :]
    return math.prod(shape[: weight.input_axes]), math.prod(shape[weight.input_axes :])


def check_shapes(folder: Path, module: str, pair: tuple[StoredTensor | None, ...], shapes: tuple) -> None:
    """Raises HuggingFaceError where A or B is missing, or of another shape than expected."""
    for letter, tensor, shape in zip("AB", pair, shapes, strict=True):
        if tensor is None or tensor.shape != shape:
            there = "missing" if tensor is None else f"{list(tensor.shape)}, not {list(shape)}"
            raise HuggingFaceError(f"{folder / WEIGHTS}: {letter} of {module} is {there}")


def check_base_weight(folder: Path, stored: StoredTensor | None, place: Tensors, weights: dict) -> None:
    """Raises HuggingFaceError where a folder holds a weight that is not the base's: it was trained, or is another's."""
    if stored is None:
        return
    view = stored.view()
    arrays = [np.asarray(weights[slot.path][...]) for slot in place.ours]
    if not np.array_equal(place.layout.to_theirs(arrays)[0].astype(view.dtype), view):
        raise HuggingFaceError(
            f"{folder / WEIGHTS}: its {place.theirs[0]} is not the base's: the adapters are of another base"
        )


def stack(path: str, found: dict[Slot, Factors], weight: nnx.Param, rank: int) -> Factors:
    """The adapters of all layers of a weight, in our shapes."""
    layers = [None] if Slot(path, None) in found else range(weight.shape[0])
    slots = [Slot(path, layer) for layer in layers]
    inputs, outputs = layer_sizes(slots[0], weight)
    zero = Factors(np.zeros((inputs, rank), np.float32), np.zeros((rank, outputs), np.float32))
    factors = [found.get(slot, zero) for slot in slots]
    first = stacked_axes(weight.axes)
    last = first + weight.input_axes
    down = np.stack([layer.down for layer in factors]).reshape(*weight.shape[:last], rank)
    up = np.stack([layer.up for layer in factors])
    return Factors(down, up.reshape(*weight.shape[:first], rank, *weight.shape[last:]))


def write_adapters(folder: Path, family: Family, base: Transformer, adapters: Adapters) -> None:
    """Writes the folder that PEFT loads onto the base as transformers has it. The folder is there and empty.

    Raises HuggingFaceError where an adapter's weight has no name of theirs.
    """
    from safetensors.numpy import save_file

    untied = untie(base)
    weights = parameters_by_path(untied)
    matrices: dict[str, tuple[Tensors, Factors]] = {}
    for module, place in modules(family, untied.config, weights).items():
        parts = [layer_factors(slot, adapters, weights[slot.path]) for slot in place.ours]
        if any(slot.path in adapters for slot in place.ours):
            matrices[module] = place, join(parts)
    unnamed = adapters.keys() - {slot.path for place, _ in matrices.values() for slot in place.ours}
    if unnamed:
        raise HuggingFaceError(f"{family.architecture} has no module that takes the adapters of {sorted(unnamed)[0]}")
    rank = max(factors.down.shape[1] for _, factors in matrices.values())
    tensors = {}
    for module, (place, factors) in matrices.items():
        padding = (0, rank - factors.down.shape[1])
        names = [PREFIX + module + suffix for suffix in suffixes(place)]
        tensors[names[0]] = np.ascontiguousarray(np.pad(factors.down, ((0, 0), padding)).T)
        tensors[names[1]] = np.ascontiguousarray(np.pad(factors.up, (padding, (0, 0))).T)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    scale = next(iter(adapters.values())).scale
    with whole_file(folder / CONFIG) as file:
        file.write((json.dumps(config_json(rank, scale * rank, matrices), indent=2) + "\n").encode())


def layer_factors(slot: Slot, adapters: Adapters, weight: nnx.Param) -> Factors:
    """One layer's adapter, flat; of rank 0 where the weight has none."""
    inputs, outputs = layer_sizes(slot, weight)
    if slot.path not in adapters:
        return Factors(np.zeros((inputs, 0), np.float32), np.zeros((0, outputs), np.float32))
    adapter = adapters[slot.path]
    down, up = (np.asarray(x[...], np.float32) for x in (adapter.down, adapter.up))
    down, up = (down, up) if slot.layer is None else (down[slot.layer], up[slot.layer])
    return Factors(down.reshape(inputs, -1), up.reshape(-1, outputs))


def join(parts: list[Factors]) -> Factors:
    """One adapter that changes all outputs as these do theirs: it has the rank of all together, or that of one where
    all share one down."""
    if all(np.array_equal(part.down, parts[0].down) for part in parts):
        return Factors(parts[0].down, np.concatenate([part.up for part in parts], axis=1))
    rank = sum(part.down.shape[1] for part in parts)
    up, row, column = np.zeros((rank, sum(part.up.shape[1] for part in parts)), np.float32), 0, 0
    for part in parts:
        rows, columns = part.up.shape
        up[row : row + rows, column : column + columns] = part.up
        row, column = row + rows, column + columns
    return Factors(np.concatenate([part.down for part in parts], axis=1), up)


def config_json(rank: int, alpha: float, matrices: dict[str, tuple[Tensors, Factors]]) -> dict:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,  # PEFT finds out by itself for each module
        "target_modules": sorted(matrices),
    }
