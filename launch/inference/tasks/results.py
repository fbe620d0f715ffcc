"""The results of a task's examples as JSON lines: kept as they are computed, and gone on with after a kill.

Each line begins with the digest of all that it depends on: checkpoint, task, records, settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from data.written_text import contents_of
from launch import VERSION
from launch.inference.appended_file import AppendedFile, begins_as
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.tasks.example import Example
from launch.inference.tasks.task import Task


def results_digest(run: LoadedCheckpoint, task: Task, examples: Sequence[Example]) -> str:
    """What the results of a task depend on, as 16 hexadecimal digits. Where its data lie is no part of it."""
    of_run = {"checkpoint": run.digest, "weights": run.weights, "quantize": run.execution.quantize}
    return digest({"version": VERSION} | of_run | asked(task, examples))


def examples_digest(task: Task, examples: Sequence[Example]) -> str:
    """What a task asks of any checkpoint, as 16 hexadecimal digits."""
    return digest(asked(task, examples))


def asked(task: Task, examples: Sequence[Example]) -> dict:
    return {
        "task": dataclasses.asdict(task) | {"data": None, "template": None},
        "examples": [dataclasses.asdict(example) | {"origin": None} | boundaries(example) for example in examples],
    }


def boundaries(example: Example) -> dict:
    """The start and end tokens in a prompt and the texts between them; nothing where there are none."""
    contents = contents_of(example.prompt)
    return {} if contents == (example.prompt,) else {"prompt_contents": list(map(str, contents))}


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class ResultsFile(AppendedFile):
    """A file of results, one line an example, in the order in which they were computed. `results`: by index.

    Raises DataError where it holds those of other examples, or while another process writes into it.
    """

    remedy = "let it, or name another folder with --results (in Python results=…)"

    def __init__(self, path: Path, digest: str, count: int):
        self.digest, self.count = digest, count
        self.results: dict[int, dict] = {}
        super().__init__(path)

    def read(self) -> int:
        size, beginning = 0, f'{{"digest": "{self.digest}"'.encode()
        for number, line in enumerate(self.file, 1):
            if not begins_as(line, beginning):
                raise DataError(
                    f"{self.path}:{number}: no result of this checkpoint and task; move the file away, or name another "
                    "folder with --results (in Python results=…)"
                )
            if not line.endswith(b"\n"):
                break
            result = json.loads(line)
            self.results[result["index"]] = result
            size += len(line)
        return size

    def add(self, result: dict) -> None:
        """Keeps the result of an example, on the disk by the time that this returns to a process that is killed."""
        self.results[result["index"]] = result
        self.write([json.dumps({"digest": self.digest} | result, ensure_ascii=False) + "\n"])

    def in_order(self) -> list[dict]:
        return [self.results[index] for index in range(self.count)]
