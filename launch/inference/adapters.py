"""Adapter folders of PEFT: a run's adapters written as one, and one made a run. The commands import and export call it.

train/huggingface/adapters.py reads and writes the folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding

from launch import VERSION
from launch.inference.export import sharded_shapes
from launch.inference.export_proof import compare, logits, proof_tokens
from launch.inference.whole_folder import whole_folder
from model import config as c
from model import lora
from model.hf.families import write_config
from model.hf.family import Family
from train import fields
from train.base import read_adapters as read_own_adapters
from train.base import read_base, read_model, write_base
from train.checkpoint import model_config, save_weights, stored_lora
from train.checkpoint_folder import CheckpointRef, find_checkpoint
from train.huggingface.adapters import read_adapters, write_adapters
from train.huggingface.reading import import_mesh
from train.huggingface.writing import ExportError


class ExportedAdapters(NamedTuple):
    """What was written: `difference`, of the logits of the folder read again."""

    folder: str
    step: int
    architecture: str
    rank: int
    paths: tuple[str, ...]
    difference: float


def family_of(checkpoint: CheckpointRef) -> Family:
    """The family that says what the base of a checkpoint computes. Raises HuggingFaceError."""
    imported = checkpoint.metadata["huggingface"] or {}
    return write_config(fields.from_json(c.Model, checkpoint.metadata["model"]), imported.get("model_type"))[0]


def export_adapters(run: str, folder: str | Path, weights: str | None = None) -> ExportedAdapters:
    """Writes the adapters of a run as a folder that must not be there yet, and compares logits of what was written.

    Raises ExportError, HuggingFaceError, CheckpointError.
    """
    checkpoint = find_checkpoint(run)
    if stored_lora(checkpoint) is None:
        raise ExportError(f"{run} has no adapters; without --adapters its weights are written")
    family, config = family_of(checkpoint), model_config(checkpoint)
    mesh = import_mesh(config)
    with jax.set_mesh(mesh), whole_folder(Path(folder)) as partial:
        shapes = sharded_shapes(config, mesh)
        base, adapters = read_base(checkpoint.folder.parents[1], shapes), read_own_adapters(checkpoint, shapes, weights)
        write_adapters(partial, family, base, adapters)
        choice, found = read_adapters(partial, family, base)
        tokens_BT, positions = proof_tokens(config)
        expected, again = (logits(lora.combine(base, each), tokens_BT, positions) for each in (adapters, found))
        difference = compare("Skald", again, expected)
    return ExportedAdapters(str(folder), checkpoint.step, family.architecture, choice.rank, tuple(adapters), difference)


def import_adapters(folder: Path, run: Path, base_run: str) -> c.LoRA:
    """Makes a run of an adapter folder and of the run that it adapts, with one checkpoint, step 0, which is enough by
    itself. Raises HuggingFaceError, CheckpointError."""
    checkpoint = find_checkpoint(base_run)
    config = model_config(checkpoint)
    mesh = import_mesh(config)
    with jax.set_mesh(mesh):
        base = read_model(checkpoint, sharded_shapes(config, mesh))
        choice, adapters = read_adapters(folder, family_of(checkpoint), base)
        adapters = jax.device_put(adapters, NamedSharding(mesh, jax.P()))
        with whole_folder(run) as partial:
            write_base(partial, lora.untie(base) if lora.adapted_config(config, choice) != config else base)
            metadata = adapted_metadata(checkpoint.metadata, config, choice)
            save_weights(partial / "checkpoints" / "0", adapters, metadata)
    return choice


def adapted_metadata(metadata: dict, model: c.Model, choice: c.LoRA) -> dict:
    """The metadata of a base's checkpoint, as that of these adapters beside its weights."""
    stored, config = fields.to_json(choice), metadata["config"]
    adapted = {**metadata, "version": VERSION, "model": fields.to_json(model)}
    return {**adapted, "config": {**config, "lora": stored}} if config else {**adapted, "lora": stored}
