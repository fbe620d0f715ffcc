"""Writes a checkpoint as a Hugging Face folder, and proves it before the folder takes its name.

`skald export` and launch/api.py call `export_checkpoint`; the proof is in launch/inference/export_proof.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data.tokenizers.tokenizer import Tokenizer, tokenizer_from_json
from launch.inference.export_proof import check_weights, compare, folder_logits, logits, proof_tokens, tokenizer_notes
from launch.inference.model_card import model_card
from launch.inference.transformers_logits import is_installed, transformers_logits
from launch.inference.whole_folder import require_space, whole_folder
from model import config as c
from model.hf.config_reader import HuggingFaceError
from model.hf.families import write_config
from model.hf.family import Family, tensor_map
from model.paths import parameters_by_path
from model.sharding import partition_spec
from model.transformer import Transformer, abstract_model
from train.base import read_model
from train.checkpoint import model_config
from train.checkpoint_folder import CheckpointRef, find_checkpoint
from train.huggingface.reading import import_mesh
from train.huggingface.tokenizer_files import tokenizer_files
from train.huggingface.writing import rounded, their_shapes, their_tensors, write_weights

SHARD_SIZE = 5_000_000_000  # bytes of a file, at most


@dataclass(frozen=True)
class Export:
    """What was written: `difference`, of the logits of the files read again; `transformers_difference`, None where it
    is not installed. `notes`: lines for the user."""

    folder: str
    step: int
    architecture: str
    dtype: str
    files: tuple[str, ...]
    parameters: int
    difference: float
    transformers_difference: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """A checkpoint to export, its weights not read yet, and the family that says what its model computes."""

    checkpoint: CheckpointRef
    model: c.Model
    tokenizer: Tokenizer
    family: Family
    config: dict
    imported: dict

    @property
    def dtype(self) -> str:
        """The dtype of the files that were imported; float32 where none were."""
        return self.imported.get("dtype", "float32")


def export_checkpoint(
    run: str, folder: str | Path, weights: str | None = None, dtype: str | None = None, shard_size: int = SHARD_SIZE
) -> Export:
    """Writes the checkpoint RUN as a folder that must not be there yet, and returns what was written.

    Only the run's weights are whole in memory, and behind them those that are read again. Raises HuggingFaceError where
    no architecture computes what the model does, ExportError where the files are not as good as the run.
    """
    folder = Path(folder)
    source = open_source(run)
    dtype = dtype or source.dtype
    require_space(folder, 4 * weight_count(source.model))
    with whole_folder(folder) as partial:
        write_small_files(partial, source, dtype)
        differences = write_and_prove_weights(partial, source, weights, dtype, shard_size)
        notes = tokenizer_notes(partial, source.tokenizer)
        files = tuple(sorted(file.name for file in partial.iterdir()))
    step, architecture = source.checkpoint.step, source.family.architecture
    return Export(str(folder), step, architecture, dtype, files, weight_count(source.model), *differences, notes)


def open_source(run: str) -> Source:
    """A checkpoint's metadata, and the family of its model. Raises CheckpointError, HuggingFaceError."""
    checkpoint = find_checkpoint(run)
    metadata = checkpoint.metadata
    model, imported = model_config(checkpoint), metadata["huggingface"] or {}
    try:
        family, config = write_config(model, imported.get("model_type"))
    except HuggingFaceError as error:
        raise HuggingFaceError(f"{checkpoint.folder}: {error}") from None
    return Source(checkpoint, model, tokenizer_from_json(metadata["tokenizer"]), family, config, imported)


def weight_count(model: c.Model) -> int:
    return sum(x.size for x in jax.tree.leaves(abstract_model(model)))


def write_small_files(folder: Path, source: Source, dtype: str) -> None:
    """All but the weights: configs, the tokenizer, the model card."""
    write_json(folder / "config.json", source.config | boundary_ids(source) | {"dtype": dtype})
    write_json(folder / "generation_config.json", source.imported.get("generation_config") or {
        **boundary_ids(source),
        "do_sample": True,
        "top_k": 0,  # all tokens: transformers would leave out all but 50
    })  # fmt: skip
    for name, content in tokenizer_files(source.tokenizer, source.imported.get("files")).items():
        (folder / name).write_bytes(content)
    card = model_card(source.checkpoint, source.family.architecture, dtype, weight_count(source.model))
    (folder / "README.md").write_text(card, encoding="utf-8")


def boundary_ids(source: Source) -> dict:
    """The ids before and behind a text, null where there are none: a family's own defaults would be other tokens."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    imported = {name: value for name, value in (source.imported.get("config") or {}).items() if name in names}
    return imported or {"bos_token_id": source.tokenizer.start_id, "eos_token_id": source.tokenizer.end_id}


def write_json(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_and_prove_weights(
    folder: Path, source: Source, weights: str | None, dtype: str, shard_size: int
) -> tuple[float, float | None]:
    """Writes the weights, and returns by how much logits of the folder differ: as it is read here, and in transformers.

    None for that where it is not installed. One model at a time is in memory. Raises ExportError.
    """
    mesh, (tokens_BT, positions) = import_mesh(source.model), proof_tokens(source.model)
    with jax.set_mesh(mesh):
        model = read_model(source.checkpoint, sharded_shapes(source.model, mesh), weights)
        write_and_check_weights(folder, source, model, dtype, shard_size)
        round_weights(model, dtype)
        expected = logits(model, tokens_BT, positions)
        del model
        found = folder_logits(folder, mesh, tokens_BT, positions)
    difference = compare("Skald", found, expected)
    if not is_installed():
        return difference, None
    theirs = transformers_logits(folder, tokens_BT, positions)
    return difference, compare("transformers", theirs, expected)


def write_and_check_weights(folder: Path, source: Source, model: Transformer, dtype: str, shard_size: int) -> None:
    """Writes every tensor, and reads it again."""
    arrays = {path: parameter[...] for path, parameter in parameters_by_path(model).items()}
    groups = tensor_map(source.family, source.model, set(arrays))
    write_weights(folder, groups, arrays, dtype, shard_size)
    check_weights(folder, their_shapes(groups, arrays), their_tensors(groups, arrays, dtype))


def round_weights(model: Transformer, dtype: str) -> None:
    """Rounds each weight in place, as it is in files of this dtype. On the host: XLA may leave out such a pair of
    conversions."""
    for path, parameter in parameters_by_path(model).items():
        numbers = rounded(np.asarray(parameter[...]), dtype, path).astype(np.float32)
        parameter[...] = jax.device_put(numbers, parameter[...].sharding)


def sharded_shapes(config: c.Model, mesh: Mesh) -> Transformer:
    """A model of shapes alone, each with its storage sharding on a mesh."""
    model = abstract_model(config)
    leaves = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, partition_spec(x.axes, x.shape, "storage")))
        for x in parameters_by_path(model).values()
    ]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)
