"""RUN/evaluations.jsonl: the scores of a run's checkpoints, a JSON object a line.

`skald evaluate --watch` writes it, and goes on with it after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from train.run import RunError


class EvaluationsFile:
    """The lines of one kind of evaluation in a file that may hold others, too.

    A line has the keys of `skald evaluate --json`, the `checkpoint`'s digest, and under `evaluated` what was evaluated:
    the text, the window, …. `evaluated`: that of the lines that are read and written here. A last line that a kill has
    torn is left out, and gone with the next one that is written.
    """

    def __init__(self, path: Path, evaluated: dict):
        self.path, self.evaluated = path, evaluated

    def lines(self) -> list[dict]:
        """The lines of this kind, in order. Raises RunError where a line is no evaluation."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        try:
            lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
            return [line for line in lines if line["evaluated"] == self.evaluated and isinstance(line["step"], int)]
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{self.path} holds a line that is no evaluation; move it away, or remove the line"
            ) from None

    def by_step(self) -> list[dict]:
        """The newest line of each step, in the order of steps."""
        newest = {line["step"]: line for line in self.lines()}
        return [newest[step] for step in sorted(newest)]

    def find(self, step: int, digest: str) -> dict | None:
        """The line of this checkpoint, if it is there."""
        own = [line for line in self.lines() if (line["step"], line["checkpoint"]) == (step, digest)]
        return own[-1] if own else None

    def append(self, scores: dict, digest: str) -> dict:
        """Writes a line, to the disk, and returns it. Several processes may write into the file."""
        line = {**scores, "checkpoint": digest, "evaluated": self.evaluated}
        with self.path.open("a+b") as file, locked(file):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(line).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return line


@contextlib.contextmanager
def locked(file: BinaryIO) -> Iterator[None]:
    """Keeps other writers out until the file is closed, where the file system can."""
    with contextlib.suppress(OSError):  # no locks there
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
