"""One training run: its program, folder, data, state, listeners. `skald train` opens it, train/loop.py drives it."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from data.pipeline import Pipeline
from data.rows import Rows
from model.transformer import Transformer
from train import fields, state
from train.checkpoint_folder import run_and_which
from train.config import Experiment
from train.events import Advanced, Event
from train.feed import training_rows
from train.prefetch import Prefetch
from train.program import Program

T = TypeVar("T")

IDENTITY_FIELDS = ("model", "data", "objective", "optimizer", "seed", "batch_size", "microbatches", "z_loss", "lora")


class RunError(ValueError):
    """A run can't start or go on. The message is one line: why, and what would work. Exit status 1."""


class Run:
    """What the loop and the listeners share. `stop` is empty, or why the run is to stop: the name of a signal, after
    which the same command goes on, or what `finish` was given."""

    def __init__(self, program: Program, folder: Path, data: Pipeline, listeners: Sequence[Callable] = ()):
        self.program, self.experiment, self.mesh = program, program.experiment, program.mesh
        self.folder, self.data, self.listeners = folder, data, listeners
        self.step, self.stop, self.finished = 0, "", False
        self.state: state.TrainState | None = None
        self.scores: dict[int, dict] = {}  # step -> metrics of its evaluation
        self.prefetch = Prefetch(self.make_rows)

    def create_state(self, weights: Transformer | None = None) -> state.TrainState:
        """The state at step 0, from these weights, or from random ones."""
        with jax.set_mesh(self.mesh):
            create = jax.jit(functools.partial(state.create_state, self.experiment))
            return jax.block_until_ready(create(weights))

    def make_rows(self, first: int, count: int) -> Rows:
        """The rows of steps first .. first + count on the run's devices. Sets the mesh, which each thread has anew."""
        e = self.experiment
        with jax.set_mesh(self.mesh):
            return training_rows(self.data.rows, first, count, e.microbatches, e.batch_size, e.data.length)

    def feed(self, count: int) -> Rows:
        """The rows of the next `count` steps; those of the dispatch behind them are made meanwhile."""
        following = self.step + count
        ahead = (following, self.count_from(following)) if following < self.experiment.steps else None
        return self.prefetch.take((self.step, count), ahead)

    def next_count(self) -> int:
        return self.count_from(self.step)

    def count_from(self, step: int) -> int:
        """Steps of a dispatch that begins at `step`: up to the next pause, at most steps_per_dispatch."""
        e = self.experiment
        until_pause = min(every - step % every for every in (e.evaluation.every, e.checkpoints.every))
        return min(e.steps_per_dispatch or 1, until_pause, e.steps - step)

    def pauses_at(self, step: int) -> bool:
        e = self.experiment
        return step >= e.steps or not step % e.evaluation.every or not step % e.checkpoints.every

    def finish(self, reason: str) -> None:
        """Ends the run here, before its last step, as a whole. For listeners, while the loop is paused."""
        self.stop, self.finished = reason, True

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(self, event)

    def until_stopped(self, parts: Iterable[T]) -> Iterator[T]:
        """Yields the parts of a listener's long work; ends early once the run is to stop, which `stop` says afterwards.

        All processes of the run must have the same number of parts; then all stop at the same one.
        """
        for part in parts:
            yield part
            self.emit(Advanced(self.step))
            if self.stop:
                return

    def close(self) -> None:
        """Closes what listeners have open, however the loop ended: each, though another can't be closed."""
        with contextlib.ExitStack() as stack:
            for opened in reversed((self.prefetch, *self.listeners)):  # the last is closed first
                stack.callback(getattr(opened, "close", lambda: None))


def is_path(field: str) -> bool:
    """Whether a field names where data lie: they may move, as their fingerprints say whether they are the same."""
    return field.startswith("data.") and field.endswith(".path")


def check_identity(saved: dict, experiment: Experiment, folder: Path) -> list[str]:
    """Lines about changed fields that may change. Raises RunError naming the identity fields that differ."""
    changed = fields.differences(fields.from_json(Experiment, saved), experiment)  # fields added since have defaults
    conflicts = [c for c in changed if c[0].split(".")[0] in IDENTITY_FIELDS and not is_path(c[0])]
    if conflicts:
        shown = "; ".join(f"{path}: {old!r} there, {new!r} here" for path, old, new in conflicts[:8])
        more = f" and {len(conflicts) - 8} more" if len(conflicts) > 8 else ""
        raise RunError(f"{folder} holds another run ({shown}{more}); take another --run-dir, or start anew with --from")
    return [f"{path}: {old!r} -> {new!r}" for path, old, new in changed]


def check_data(saved: dict, current: dict, folder: Path) -> None:
    """Raises RunError if the fingerprints of the text or the tokenizer are not those that the run began with."""
    if saved["order"] != current["order"]:
        raise RunError(
            f"{folder} was begun by an earlier version of Skald, which read the rows in another order; --from {folder} "
            "starts a new run from its weights"
        )
    differ = [
        f"{kind} {field}"
        for kind in ("training", "validation")
        for old, new in zip(saved[kind], current[kind], strict=True)
        for field in new
        if old[field] != new[field]
    ]
    if differ:
        raise RunError(
            f"{folder} was trained on other data (changed: {', '.join(differ)}); put the files back, or take another "
            f"--run-dir (--from {folder} starts it from these weights)"
        )


def count_parameters(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def check_origin(folder: Path, saved: dict, start_from: str | None, goes_on: bool) -> None:
    """Checks that --from names the run whose weights this one began with; one that goes on may leave it out.

    `saved`: its config.json, or a checkpoint's metadata. `started_from` in it is the checkpoint that it began with, or
    None for random weights; an older Skald did not always say. Raises RunError."""
    begun_from = saved.get("started_from")
    if "started_from" not in saved or (start_from is None and (goes_on or begun_from is None)):
        return
    theirs, named = begun_from and Path(begun_from).parents[1], start_from and run_and_which(start_from)[0]
    if theirs and named and theirs.resolve() == named.resolve():
        return
    began = f"the weights of {begun_from}" if begun_from else "random weights"
    wanted = f"from those of {start_from}" if start_from else "without --from"
    same = f"give --from {theirs}" if theirs else "leave --from out"
    raise RunError(
        f"{folder} began with {began} and can't go on {wanted}; {same}, or take another --run-dir for a new run"
    )


def read_config(folder: Path) -> dict | None:
    """The experiment in RUN/config.json, as JSON; None where there is no file. Raises RunError for any other file."""
    config = read_config_file(folder)
    return config and config["experiment"]


def read_config_file(folder: Path) -> dict | None:
    """All that `write_config` wrote; None and errors as of `read_config`."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text()) if file.is_file() else None
        return config and config | {"experiment": fields.with_current_names(config["experiment"])}
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{file} is not a run's config; move it away, or take another --run-dir") from None


def write_config(folder: Path, version: str, experiment: dict, started_from: str | None) -> None:
    """Writes RUN/config.json, whole or not at all. `started_from`: the checkpoint whose weights the run began with."""
    temporary = folder / "config.json.written"
    stored = {"version": version, "started_from": started_from, "experiment": experiment}
    temporary.write_text(json.dumps(stored, indent=1) + "\n")
    temporary.replace(folder / "config.json")
