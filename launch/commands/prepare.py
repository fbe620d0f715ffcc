"""`skald prepare CONFIG`: tokenizes the data of a config into the cache, ahead of time, and says what is there."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from data.config import Data
from data.documents import Documents
from data.index.training_index import SourceIndex
from data.packing import Packing, padding_share
from data.pipeline import Pipeline, Report, open_pipeline
from data.splits import Split, other_source
from data.store.cache import folder_bytes
from data.store.place import stores_folder
from data.tokenizers.tokenizer import build_tokenizer
from launch.commands.progress import ProgressReport
from launch.commands.quantities import count, format_size
from launch.machine.detection import cache_folder
from train.check import check, check_vocabulary
from train.config import Experiment

REASONS = 3  # of refusals that are shown


def main(arguments: Namespace) -> int:
    started, before = time.monotonic(), store_folders()
    experiment = arguments.experiment
    report = ProgressReport()
    pipeline = open_data(experiment, report)
    indexes = [SourceIndex(split, report) for split in pipeline.splits.training] if arguments.index else []
    sources = describe_sources(pipeline, experiment.data, store_folders() - before)
    for source, index in zip(sources, indexes, strict=False):
        source["index"] = describe_index(index)
    seconds = time.monotonic() - started
    if arguments.json:
        tokenizer = {"kind": experiment.data.tokenizer.kind, "vocab_size": pipeline.tokenizer.vocab_size}
        took = {"seconds": seconds, "bytes_read": bytes_read(sources)}
        print(json.dumps({"sources": sources, "tokenizer": tokenizer, **took}))
        return 0
    print("\n".join([*(line for source in sources for line in page(source)), summary(sources, seconds)]))
    return 0


def open_data(experiment: Experiment, report: Report) -> Pipeline:
    """Opens the rows that `skald train` reads, and makes what the cache lacks. Raises ConfigError and DataError."""
    check(experiment)
    config = experiment.data
    tokenizer = build_tokenizer(config.tokenizer, [part.source for part in config.parts], report)
    if experiment.model.vocab_size:
        check_vocabulary(experiment, tokenizer.vocab_size)
    return open_pipeline(config, experiment.batch_size, experiment.seed, cache_folder(), tokenizer, report)


def store_folders() -> set[Path]:
    """The folders of all complete stores."""
    return {manifest.parent for manifest in stores_folder(cache_folder()).glob("*/manifest.json")}


def describe_sources(pipeline: Pipeline, config: Data, made: set[Path]) -> list[dict]:
    """What `--json` prints of each source: those of training, then the one that validation has of its own."""
    training, validation = pipeline.splits
    described = []
    for part, split, source in zip(config.parts, training, pipeline.sources, strict=True):
        splits = {"training": describe_split(split), "duplicates": split.duplicates}
        packing = {"packing": describe_packing(config, source.packing)}
        described.append(describe_store(split, part.source.path, made) | splits | packing)
    if other := other_source(config):
        described.append(describe_store(validation[0], other.path, made))
    for description, split in zip(described[-len(validation) :], validation, strict=True):
        description["validation"] = describe_split(split)
    return described


def describe_store(split: Split, path: str, made: set[Path]) -> dict:
    """The store that a split is of. `made`: the folders of the stores that this command has made."""
    folder, manifest = split.store.folder, split.store.manifest
    counts = {name: manifest[name] for name in ("documents", "tokens", "bytes", "refused")}
    cached = {"folder": str(folder), "bytes_on_disk": folder_bytes(folder), "made": folder in made}
    return {"name": split.name, "path": path, "bytes_of_source": sum(manifest["sizes"]), **counts, **cached}


def describe_split(split: Split) -> dict:
    return {"documents": len(split.documents), "tokens": count_tokens(split.documents)}


def describe_index(index: SourceIndex) -> dict:
    """`seconds`: that it took to make it, now or earlier."""
    made = {name: index.manifest[name] for name in ("tokens", "seconds")}
    return made | {"parts": len(index.parts), "bytes_on_disk": folder_bytes(index.folder)}


def count_tokens(documents: Documents) -> int:
    bounds = map(documents.bounds, documents.chunks())
    return sum(int(np.maximum(b.stops - b.starts, 0).sum()) for b in bounds)


def describe_packing(config: Data, packing: Packing) -> dict:
    """`padding`: the share of places in an epoch's rows that hold no prediction."""
    kind = {"kind": config.packing, "length": config.length}
    return kind | {"rows_per_epoch": packing.rows_per_epoch, "padding": padding_share(packing, config.length)}


def bytes_read(sources: list[dict]) -> int:
    """Bytes of the sources whose stores this command has made."""
    return sum({source["folder"]: source["bytes_of_source"] for source in sources if source["made"]}.values())


def page(source: dict) -> list[str]:
    """A source as lines for a person."""
    refused = source["refused"]
    lines = [
        f"{source['name']}: {source['path']}",
        f"  store       {count(source['documents'], 'document')}, {count(source['tokens'], 'token')}, "
        f"{format_size(source['bytes'])} of text",
    ]
    if refused["documents"]:
        lines.append(f"  left out    {count(refused['documents'], 'record')}, of which the first:")
        lines += [f"              {reason}" for reason in refused["reasons"][:REASONS]]
    for name in ("training", "validation"):
        if split := source.get(name):
            lines.append(f"  {name:<10}  {count(split['documents'], 'document')}, {count(split['tokens'], 'token')}")
    if source.get("duplicates"):
        lines.append(f"  duplicates  {count(source['duplicates'], 'document')} of training in validation, too")
    if packing := source.get("packing"):
        rows = f"{count(packing['rows_per_epoch'], 'row')} of {packing['length']:,} an epoch"
        lines.append(f"  packing     {packing['kind']}: {rows}, {packing['padding']:.2%} padding")
    if index := source.get("index"):
        each, rate = index["bytes_on_disk"] / index["tokens"], index["tokens"] / index["seconds"] / 1e6
        made = f"{format_size(index['bytes_on_disk'])}, {each:.1f} bytes a token; made with {rate:.1f} M tokens/s"
        lines.append(f"  index       {count(index['tokens'], 'token')}, {made}")
    name = Path(source["folder"]).name
    return [*lines, f"  on disk     {format_size(source['bytes_on_disk'])}, stores/{name}"]


def summary(sources: list[dict], seconds: float) -> str:
    if not (size := bytes_read(sources)):
        return f"all of it was there already, in {cache_folder()} ({seconds:.1f} s)"
    speed = f"{format_size(size)} in {seconds:.1f} s, {size / 1e6 / seconds:.1f} MB/s"
    return f"tokenized {speed}, into {cache_folder()}"
