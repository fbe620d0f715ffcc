"""`skald import HF_FOLDER RUN`: makes a run with one checkpoint, step 0, of a Hugging Face folder."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path

from data.tokenizers.tokenizer import Tokenizer, build_tokenizer
from launch import VERSION
from launch.inference import generation_config
from launch.inference.adapters import import_adapters
from launch.inference.whole_folder import whole_folder
from train import fields
from train.check import check_block
from train.checkpoint import save_weights
from train.checkpoint_folder import CheckpointError
from train.huggingface.reading import HuggingFaceCheckpoint, import_mesh, load_weights, open_checkpoint, read_json
from train.huggingface.tokenizers import check_vocabulary, find_tokenizer, verbatim_files
from train.run import count_parameters


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
    with whole_folder(run) as partial:
        save_weights(partial / "checkpoints" / "0", weights, metadata)
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
    """Raises CheckpointError where the run's folder is there already."""
    if run.exists():
        held = (run / "checkpoints").is_dir()
        reason = "a file" if run.is_file() else "holds a run already" if held else "is there already"
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
    if found.kind == "sentencepiece":
        say(f"{found.path}: prompts get the ids of SentencePiece itself; transformers makes a tokenizer of its own of "
            "this file, which gives others for some texts, as with spaces in front")  # fmt: skip
    tokenizer = build_tokenizer(found, (), (lambda _: None) if found.kind == "ids" else say)
    check_vocabulary(folder, tokenizer.vocab_size, vocab_size)
    generation = read_json(file) if (file := folder / "generation_config.json").is_file() else None
    ends = generation_config.end_ids(generation, checkpoint.config, tokenizer.vocab_size)
    if generation is not None:
        say(generation_config.describe(generation, ends, tokenizer.vocab_size))
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


def summary(result: dict) -> str:
    return (
        f"{result['run']}: {result['model_type']} with {result['parameters']:,} parameters, {result['dtype']} in the "
        f"files, tokenizer {result['tokenizer']}; read in {result['read_seconds']:.1f} s, saved in "
        f"{result['save_seconds']:.1f} s\n"
        f"next: skald generate {result['run']} --prompt …, or skald train CONFIG --from {result['run']} --run-dir …"
    )


def say(line: str) -> None:
    print(line, file=sys.stderr)
