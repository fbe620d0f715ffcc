"""The checkpoints in a run's folder: which are complete, their metadata, and which one a name such as RUN@best means.

train/checkpoint.py writes them, and reads their arrays; launch/ finds them by name.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from train import fields

# In a checkpoint's folder, as JSON: step, model, config (null where no run of ours trained it), tokenizer, data
# fingerprints, trained_length, scores, and huggingface: what an import keeps of the files that it was made of, or null;
# `lora` beside a null config, where adapters were imported.
METADATA = "about/metadata"
RANKED_BY = {"best": "eval/loss", "human": "eval/human/distance"}  # name of a checkpoint -> the score, lowest first
WITHOUT_SCORE = {"best": "validation loss", "human": "distance from human text (evaluation.human)"}


class CheckpointError(ValueError):
    """A checkpoint is not there, or can't be read or written. The message is one line."""


class DamagedCheckpoint(CheckpointError):
    """The arrays of a checkpoint can't be read. The message is one line. Exit status 1."""


class CheckpointRef(NamedTuple):
    """A complete checkpoint: its folder, its step and its metadata."""

    folder: Path
    step: int
    metadata: dict


def find_checkpoint(name: str) -> CheckpointRef:
    """The checkpoint named RUN, RUN@STEP, RUN@latest, RUN@best (lowest loss) or RUN@human (nearest to human text).

    Raises CheckpointError saying what there is."""
    run, which = run_and_which(name)
    steps = published_steps(run)
    if not steps:
        reason = "no such folder" if not run.exists() else "a file" if run.is_file() else "no checkpoint in it"
        if (run / "config.json").is_file() and any(run.glob("*.safetensors*")):
            raise CheckpointError(f"{run}: a folder of Hugging Face's; skald import {run} RUN makes a run of it")
        nearby = [str(p.parent) for p in sorted(run.parent.glob("*/checkpoints"))][:6]
        raise CheckpointError(f"{run}: {reason}{'; runs there: ' + ', '.join(nearby) if nearby else ''}")
    available = ", ".join(f"@{s}" for s in steps)
    if which == "latest":
        step = steps[-1]
    elif which in RANKED_BY:
        step = best_step(run, RANKED_BY[which])
    elif which.isdigit() and int(which) in steps:
        step = int(which)
    else:
        raise CheckpointError(f"{name}: no such checkpoint; {run} has {available}, @latest, @best")
    if step is None:
        raise CheckpointError(
            f"{name}: no checkpoint there has a {WITHOUT_SCORE[which]}; {run} has {available}, @latest"
        )
    return checkpoint_in(run / "checkpoints" / str(step))


def run_and_which(name: str) -> tuple[Path, str]:
    """The folder and the checkpoint that RUN or RUN@WHICH names: by default the latest."""
    folder, _, which = name.rpartition("@") if "@" in Path(name).name else (name, "", "latest")
    return Path(folder), which


def checkpoint_in(folder: Path) -> CheckpointRef:
    """The published checkpoint in this folder. Raises CheckpointError for one of an older Skald."""
    metadata = read_metadata(folder.parents[1], int(folder.name))
    if "trained_length" not in metadata:
        raise CheckpointError(
            f"{folder}: made by Skald {metadata.get('version', 'of old')}, whose checkpoints do not say how long rows "
            "were and how documents begin; that version reads it"
        )
    return CheckpointRef(folder, int(folder.name), metadata)


def published_steps(run: Path) -> list[int]:
    """Steps of a run's complete checkpoints, in order. What a killed save left behind does not count."""
    return [step for step in numbered_folders(run) if is_complete(run, step)]


def unfinished_steps(run: Path) -> list[int]:
    """Steps of checkpoints whose folders lack a part."""
    return [step for step in numbered_folders(run) if not is_complete(run, step)]


def numbered_folders(run: Path) -> list[int]:
    folder = run / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def is_complete(run: Path, step: int) -> bool:
    """Whether a checkpoint has its weights, and metadata that can be read."""
    try:
        scores = read_metadata(run, step)["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(scores, dict) and (run / "checkpoints" / str(step) / "model").is_dir()


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint to what nothing reads, and returns its new path; nothing is deleted."""
    for number in itertools.count(1):
        target = folder.with_name(f"{folder.name}.damaged-{number}")
        if not target.exists():
            return folder.rename(target)


def read_metadata(run: Path, step: int) -> dict:
    """A checkpoint's metadata: step, model, config, tokenizer, data fingerprints, scores (METADATA)."""
    file = run / "checkpoints" / str(step) / METADATA
    return parse_metadata(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def parse_metadata(file: Path, modified_ns: int) -> dict:
    """The file's metadata, parsed once while it does not change: its tokenizer may be megabytes, and many read it."""
    del modified_ns
    metadata = json.loads(file.read_text())
    data = metadata.get("data", {})
    if "train" in data:  # of 0.3 and before: one source, rows in another order
        data = {"order": 1, "training": [data["train"]], "validation": [data["validation"]]}
    config = fields.with_current_names(metadata["config"])
    model = fields.with_current_names(metadata["model"]) if "model" in metadata else config["model"]  # 0.4 and before
    return {"huggingface": None, **metadata, "data": data, "config": config, "model": model}


def checkpoint_digest(folder: Path) -> str:
    """What tells a checkpoint from any other, wherever it lies: of what it says of itself but its scores, which may be
    written later, and of the list of its weights' files, whose names are drawn at random when it is saved.

    Raises OSError or ValueError where its metadata can't be read.
    """
    metadata = {name: value for name, value in json.loads((folder / METADATA).read_text()).items() if name != "scores"}
    sha256 = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode("utf-8", "surrogatepass"))
    manifest = folder / "model" / "manifest.ocdbt"
    if manifest.exists():
        sha256.update(manifest.read_bytes())
    return sha256.hexdigest()


def saved_scores(run: Path, name: str = RANKED_BY["best"]) -> dict[int, float | None]:
    """A score of each published checkpoint, by default its validation loss; None where it has none."""
    return {step: read_metadata(run, step)["scores"].get(name) for step in published_steps(run)}


def rank(scores: Mapping[int, float | None]) -> list[int]:
    """Steps from the lowest score to the highest, of equals the earlier first; steps without a finite one are out."""
    scored = [(score, step) for step, score in scores.items() if score is not None and math.isfinite(score)]
    return [step for _, step in sorted(scored)]


def best_step(run: Path, name: str = RANKED_BY["best"]) -> int | None:
    """The step whose checkpoint has the lowest score, by default what RUN@best names; None where none is finite."""
    return next(iter(rank(saved_scores(run, name))), None)
