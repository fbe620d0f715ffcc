"""Follows a run and scores every checkpoint that it publishes: `skald evaluate --watch`, as a job of its own.

A run is over once the checkpoint of its last step is there (`steps` in RUN/config.json), or of the one at which it came
no nearer to human text (`evaluation.human`). One that was stopped or killed before is expected to go on, for as long as
the watch is told to wait.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.evaluations_file import EvaluationsFile
from launch.inference.scoring import LossNotFinite
from train.checkpoint_folder import (
    METADATA,
    CheckpointError,
    DamagedCheckpoint,
    checkpoint_digest,
    is_complete,
    numbered_folders,
    read_metadata,
)
from train.fields import ConfigError
from train.listeners.human_distance import ended_early
from train.run import RunError, read_config

POLL_SECONDS = 3.0  # between two looks at the folder, which may lie on a network file system


class NoNewCheckpoint(RunError):
    """The run was not over, and published nothing for as long as a watch was to wait."""


class Watch:
    """Iterates over the lines of `file` that are written as a run's checkpoints are scored, the oldest first.

    A checkpoint that `file` has is not scored again; another one of the same step is. One that is deleted before it was
    read is passed over; so is one that can't be read or has no finite loss, and `failed` has its step. `report` is
    given a line about these, and where nothing is there to score. `load`: from a name as RUN@STEP to the checkpoint;
    `evaluate`: from the checkpoint to its scores. `timeout`: seconds to wait for a checkpoint; None: for ever.

    Raises ConfigError for a run that nothing trains, NoNewCheckpoint after `timeout`, and what `load` and `evaluate`
    raise where it concerns the run.
    """

    def __init__(
        self,
        run: Path,
        file: EvaluationsFile,
        load: Callable[[str], LoadedCheckpoint],
        evaluate: Callable[[LoadedCheckpoint], dict],
        report: Callable[[str], None],
        timeout: float | None = None,
    ):
        self.run, self.file, self.load, self.evaluate, self.report = run, file, load, evaluate, report
        self.timeout = timeout
        self.done: dict[int, int] = {}  # step -> when the metadata of the checkpoint that needs no more was changed
        self.tried: set[tuple[int, int]] = set()  # such pairs of those that could not be read once
        self.failed: list[int] = []
        self.saved_config: dict | None = None  # the experiment as the checkpoint read last has it

    def __iter__(self) -> Iterator[dict]:
        waits, since = False, time.monotonic()
        while True:
            for step, changed in self.new_checkpoints():
                if line := self.score(step, changed):
                    yield line
                since = time.monotonic()
            found = self.new_checkpoints()
            for step, changed in self.tried - {*found}:
                if self.done.get(step) != changed:
                    self.report_deleted(step)
            self.tried &= {*found}
            if not found:
                if self.is_over():
                    return
                if not waits:
                    self.report(f"{self.run}: {self.state()}; waiting for the next checkpoint")
                    waits = True
                if self.timeout and time.monotonic() - since > self.timeout:
                    raise NoNewCheckpoint(f"{self.run}: {self.state()}; no new checkpoint for {self.timeout:g} s")
                time.sleep(POLL_SECONDS)
            elif self.tried:
                time.sleep(POLL_SECONDS)

    def new_checkpoints(self) -> list[tuple[int, int]]:
        """The checkpoints that are not done, in order: step, and when its metadata was changed. One stat each."""
        listed = [(step, self.changed(step)) for step in numbered_folders(self.run)]
        return [(step, at) for step, at in listed if at and self.done.get(step) != at and is_complete(self.run, step)]

    def changed(self, step: int) -> int:
        """When the metadata of a checkpoint was changed, in nanoseconds; 0 where it has none."""
        try:
            return (self.run / "checkpoints" / str(step) / METADATA).stat().st_mtime_ns
        except OSError:
            return 0

    def score(self, step: int, changed: int) -> dict | None:
        """Scores a checkpoint and returns its new line; None where it has one, or can't be scored."""
        try:
            digest = checkpoint_digest(self.run / "checkpoints" / str(step))
            self.saved_config = read_metadata(self.run, step)["config"]
        except (OSError, ValueError) as error:
            return self.pass_over(step, changed, error)
        if self.saved_config is None:
            raise ConfigError(f"{self.run} was imported: no training adds checkpoints; evaluate it without --watch")
        if self.file.find(step, digest):
            self.done[step] = changed
            return None
        self.file.path.open("a").close()  # what is wrong with it is said before anything is scored
        gc.collect()  # the decoder of the last checkpoint refers to itself: its weights would stay beside these
        try:
            checkpoint = self.load(f"{self.run}@{step}")
            if checkpoint.digest != digest:  # replaced meanwhile
                return None
        except (OSError, ValueError) as error:
            return self.pass_over(step, changed, error)
        try:
            scores = self.evaluate(checkpoint)
        except LossNotFinite as error:
            return self.give_up(step, changed, str(error))
        self.done[step] = changed
        return self.file.append(scores, digest)

    def pass_over(self, step: int, changed: int, error: Exception) -> None:
        """Says what became of a checkpoint that could not be read: it is tried twice, as a part of it may be deleted
        already, and the rest in a moment. Raises the error where it says what is wrong with the run itself."""
        is_damage = isinstance(error, DamagedCheckpoint) or not isinstance(error, CheckpointError | ConfigError)
        if not is_complete(self.run, step):
            self.report_deleted(step)
        elif (step, changed) not in self.tried:
            self.tried.add((step, changed))
        elif is_damage:
            self.give_up(step, changed, str(error).removesuffix("; take another checkpoint"))
        else:
            raise error

    def report_deleted(self, step: int) -> None:
        self.report(f"{self.run}: checkpoint {step} was deleted before it was scored; it is passed over")

    def give_up(self, step: int, changed: int, line: str) -> None:
        self.report(f"{line}; it is left out")
        self.done[step] = changed
        self.failed.append(step)

    def config(self) -> dict | None:
        """The experiment, as JSON; None where nothing says what it is yet."""
        return read_config(self.run) or self.saved_config

    def is_over(self) -> bool:
        config, newest = self.config(), max(numbered_folders(self.run), default=0)
        if config is None or newest not in self.done:
            return False
        return newest >= config["steps"] or ended_early(self.run, config["evaluation"].get("human"), newest)

    def state(self) -> str:
        if not self.run.is_dir():
            return "no such folder yet"
        if not self.done:
            return "no checkpoint yet"
        config = self.config()
        return f"scored up to step {max(self.done)}" + (f" of {config['steps']}" if config else "")
