"""One training run: its program, folder, data, state, listeners. `skald train` opens it, train/loop.py drives it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from data.pipeline import Pipeline
from train import fields, state
from train.config import Experiment
from train.events import Advanced, Event
from train.feed import training_rows
from train.program import Program

T = TypeVar("T")

IDENTITY_FIELDS = ("model", "data", "optimizer", "seed", "batch_size", "microbatches", "z_loss")
PATH_FIELDS = ("data.source.path", "data.validation_source.path", "data.tokenizer.path")  # may move: fingerprints tell


class RunError(ValueError):
    """A run that can't start or go on: one line that says why and what would work. Exit status 1."""


class Run:
    """What the loop and the listeners share. `stop` names the signal once one was received."""

    def __init__(self, program: Program, folder: Path, data: Pipeline, listeners: Sequence[Callable] = ()):
        self.program, self.experiment, self.mesh = program, program.experiment, program.mesh
        self.folder, self.data, self.listeners = folder, data, listeners
        self.step, self.stop = 0, ""
        self.state: state.TrainState | None = None
        self.scores: dict[int, dict] = {}  # step -> what evaluation found there

    def create_state(self) -> state.TrainState:
        with jax.set_mesh(self.mesh):
            return jax.block_until_ready(jax.jit(lambda: state.create_state(self.experiment))())

    def feed(self, first: int, count: int):
        e = self.experiment
        return training_rows(self.data.rows, first, count, e.microbatches, e.batch_size, e.data.length)

    def next_count(self) -> int:
        """Steps of the next dispatch: up to the next pause, at most steps_per_dispatch."""
        e = self.experiment
        nearest = min(every - self.step % every for every in (e.evaluation.every, e.checkpoints.every))
        return min(e.steps_per_dispatch or 1, nearest, e.steps - self.step)

    def pauses_at(self, step: int) -> bool:
        e = self.experiment
        return step >= e.steps or not step % e.evaluation.every or not step % e.checkpoints.every

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(self, event)

    def until_stopped(self, parts: Iterable[T]) -> Iterator[T]:
        """The parts of a listener's long work as they are done, to the first at which the run is to stop.

        All processes of the run go through it with as many parts, so that all stop at the same one. Look at `stop`
        afterwards.
        """
        for part in parts:
            yield part
            self.emit(Advanced(self.step))
            if self.stop:
                return

    def close(self) -> None:
        """However the loop ended: what a listener has open is closed."""
        for listener in self.listeners:
            getattr(listener, "close", lambda: None)()


def check_identity(saved: dict, experiment: Experiment, folder: Path) -> list[str]:
    """Lines for what may change and did. Raises RunError naming every identity field that differs."""
    changed = fields.differences(saved, experiment)
    mine = [c for c in changed if c[0].split(".")[0] in IDENTITY_FIELDS and c[0] not in PATH_FIELDS]
    if mine:
        shown = "; ".join(f"{path}: {old!r} there, {new!r} here" for path, old, new in mine[:8])
        more = f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        raise RunError(f"{folder} holds another run ({shown}{more}); take another --run-dir, or start anew with --from")
    return [f"{path}: {old!r} -> {new!r}" for path, old, new in changed]


def check_data(saved: dict, here: dict, folder: Path) -> None:
    """Raises RunError if the text or the tokenizer is not what the run began with."""
    differ = [f"{split} {what}" for split in here for what in here[split] if saved[split][what] != here[split][what]]
    if differ:
        raise RunError(
            f"{folder} was trained on other data (changed: {', '.join(differ)}); put the files back, or take another "
            f"--run-dir (--from {folder} starts it from these weights)"
        )


def count_parameters(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def read_config(folder: Path) -> dict | None:
    """RUN/config.json's experiment, or None where there is none. Raises RunError where the file is something else."""
    file = folder / "config.json"
    try:
        return fields.with_current_names(json.loads(file.read_text())["experiment"]) if file.is_file() else None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{file} is not a run's config; move it away, or take another --run-dir") from None


def write_config(folder: Path, version: str, stored: dict) -> None:
    """RUN/config.json, whole or not at all."""
    beside = folder / "config.json.written"
    beside.write_text(json.dumps({"version": version, "experiment": stored}, indent=1) + "\n")
    beside.replace(folder / "config.json")
