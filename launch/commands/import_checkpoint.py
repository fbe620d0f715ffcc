"""`skald import HF_FOLDER RUN`: makes a run with one checkpoint, step 0, of a Hugging Face folder."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np

from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from launch import VERSION
from launch.inference import generation_config
from launch.inference.adapters import import_adapters
from train import fields
from train.check import check_block
from train.checkpoint import Checkpoints
from train.checkpoint_folder import CheckpointError
from train.huggingface.reading import HuggingFaceCheckpoint, import_mesh, load_weights, open_checkpoint, read_json
from train.huggingface.tokenizers import check_vocabulary, find_tokenizer, verbatim_files
from train.run import count_parameters
from train.state import TrainState


def main(arguments: Namespace) -> int:
    folder, run, start = Path(arguments.folder), Path(arguments.run), time.perf_counter()
    check_free(run)
    if arguments.base:
        adapters = import_adapters(folder, run, arguments.base)
        result = {"run": str(run), "base": arguments.base, "rank": adapters.rank, "paths": adapters.paths}
        line = f"{run}: adapters of rank {adapters.rank} beside the weights of {arguments.base}"
        print(json.dumps(result) if arguments.json else line)
        return 0
    checkpoint = open_checkpoint(folder)
    for index, block in enumerate(checkpoint.model.layers):
        for number, part in enumerate(block.pattern):
            check_block(f"model.layers.{index}.pattern.{number}", part)
    metadata, tokenizer = describe(checkpoint)
    mesh = import_mesh(checkpoint.model)
    weights = load_weights(checkpoint, mesh)
    read = time.perf_counter() - start
    save(run, weights, mesh, metadata)
    saved = time.perf_counter() - start - read
    result = {
        "run": str(run),
        "model_type": checkpoint.family.model_type,
        "parameters": count_parameters(weights),
        "dtype": checkpoint.dtype,
        "tokenizer": tokenizer.to_json()["kind"],
        "read_seconds": round(read, 3),
        "save_seconds": round(saved, 3),
    }
    print(json.dumps(result) if arguments.json else summary(result))
    return 0


def check_free(run: Path) -> None:
    """Raises CheckpointError where the run's folder is a file, or holds a run."""
    held = [run / name for name in ("config.json", "metrics.jsonl", "checkpoints") if (run / name).exists()]
    if run.is_file() or held:
        reason = f"{held[0].name} is there: it holds a run already" if held else "a file"
        raise CheckpointError(f"{run}: {reason}; name a folder that is not there yet")


def describe(checkpoint: HuggingFaceCheckpoint) -> tuple[dict, Tokenizer]:
    """The metadata of the new checkpoint, and its tokenizer. Says what the user should know."""
    folder, vocab_size = checkpoint.folder, checkpoint.model.vocab_size
    for line in checkpoint.warnings:
        say(line)
    found = find_tokenizer(folder, checkpoint.config, vocab_size)
    if found.kind == "ids":
        say(f"{folder}: no tokenizer in it (tokenizer.json, tokenizer.model, or vocab.json and merges.txt): prompts of "
            "this run are token ids, as '15496 995', and it writes ids")  # fmt: skip
    tokenizer = build_tokenizer(found, (), (lambda _: None) if found.kind == "ids" else say)
    check_vocabulary(folder, tokenizer.vocab_size, vocab_size)
    generation = read_json(file) if (file := folder / "generation_config.json").is_file() else None
    ends = generation_config.end_ids(generation, checkpoint.config, tokenizer.vocab_size)
    if generation is not None:
        say(generation_config.describe(generation, ends))
    metadata = {
        "version": VERSION,
        "model": fields.to_json(checkpoint.model),
        "config": None,
        "tokenizer": tokenizer.to_json(),
        "data": {},
        "trained_length": checkpoint.model.context,
        "huggingface": {
            "model_type": checkpoint.family.model_type,
            "dtype": checkpoint.dtype,
            "config": checkpoint.config,
            "generation_config": generation,
            "tokenizer": fields.to_json(found),
            "files": verbatim_files(folder, found.kind),
        },
    }
    return metadata, tokenizer


def save(run: Path, weights, mesh: jax.sharding.Mesh, metadata: dict) -> None:
    """Writes the checkpoint of step 0: there is no optimizer in it. It appears whole or not at all."""
    run.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(run, keep_last=1, keep_best=0)
    replicated = jax.sharding.NamedSharding(mesh, jax.P())
    step = jax.device_put(np.int32(0), replicated)
    checkpoints.save(0, TrainState(step, weights, (), None), metadata, None)
    checkpoints.wait()
    checkpoints.close()


def summary(result: dict) -> str:
    return (
        f"{result['run']}: {result['model_type']} with {result['parameters']:,} parameters, {result['dtype']} in the "
        f"files, tokenizer {result['tokenizer']}; read in {result['read_seconds']:.1f} s, saved in "
        f"{result['save_seconds']:.1f} s"
    )


def say(line: str) -> None:
    print(line, file=sys.stderr)
