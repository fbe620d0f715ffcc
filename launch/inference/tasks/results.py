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
from launch.inference.json_schema import read_schema_files
from launch.inference.tasks.example import Example
from launch.inference.tasks.metrics import METRICS
from launch.inference.tasks.task import Task
from model.decode.chain import SamplerError, parse_chain
from train.checkpoint_folder import CheckpointError, checkpoint_digest, find_checkpoint


def results_digest(run: LoadedCheckpoint, task: Task, examples: Sequence[Example]) -> str:
    """What the results of a task depend on, as 16 hexadecimal digits. Where its data lie is no part of it."""
    of_run = {"checkpoint": run.digest, "weights": run.weights, "quantize": run.execution.quantize}
    return digest({"version": VERSION} | of_run | asked(task, examples))


def examples_digest(task: Task, examples: Sequence[Example]) -> str:
    """What a task asks of any checkpoint, as 16 hexadecimal digits."""
    return digest(asked(task, examples))


def asked(task: Task, examples: Sequence[Example]) -> dict:
    return {
        "task": dataclasses.asdict(task) | sampler_content(task) | dict.fromkeys(("data", "template", "label")),
        "examples": [dataclasses.asdict(example) | {"origin": None} | boundaries(example) for example in examples],
    }


def sampler_content(task: Task) -> dict:
    """The sampler of a task that writes, with the content of files that it names, and digests of checkpoints."""
    if not METRICS[task.metric].generates:
        return {}
    try:
        sampler = read_schema_files(task.sampler)
        runs = {run: checkpoint_digest(find_checkpoint(run).folder) for run in parse_chain(sampler).source.runs if run}
    except (SamplerError, DataError, CheckpointError) as error:
        raise type(error)(f"task {task.name}: {error}") from None
    return {"sampler": sampler} | ({"runs": runs} if runs else {})


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
