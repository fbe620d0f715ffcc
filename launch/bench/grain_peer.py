"""The peer's side of `skald bench data --against grain`: Grain reading packed rows from an ArrayRecord file.

It is given what helps it: a row a record (`group_size:1`, its own advice for random access), all five arrays as they
are in memory, so that nothing is parsed, and its default threads. It imports no JAX but what Grain itself does.
"""

from __future__ import annotations

import functools
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from data.rows import Rows
from launch.bench.feeding import packed_rows
from launch.bench.serving import serve
from train import fields
from train.config import Experiment

ROWS = 1024  # in the file; read from memory once the first run has read them


def feeding(experiment: dict, batch: int, length: int, seconds: float, folder: Path):
    """A function that reads shuffled batches for about `seconds` and returns tokens a second."""
    import grain.python as grain  # imports JAX; the package is no dependency of ours

    file = write_rows(packed_rows(fields.from_json(Experiment, experiment), batch, length, ROWS), folder)
    source = grain.MapDataset.source(grain.ArrayRecordDataSource([str(file)]))
    rows = source.shuffle(seed=0).repeat().map(functools.partial(parse, length=length))
    iterator = iter(rows.batch(batch).to_iter_dataset())

    def run_once() -> dict[str, float]:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(iterator)
            count += 1
        return {"tokens_per_second": count * batch * length / (time.perf_counter() - start)}

    return run_once


def write_rows(rows: Rows, folder: Path) -> Path:
    """Writes rows to an ArrayRecord file: a record holds the five arrays of one row as they are in memory."""
    from array_record.python.array_record_module import ArrayRecordWriter  # compiled, and few programs need it

    file = folder / "rows.array_record"
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for arrays in zip(*rows, strict=True):
        writer.write(b"".join(array.tobytes() for array in arrays))
    writer.close()
    return file


def parse(record: bytes, length: int) -> dict[str, np.ndarray]:
    """The arrays of a record, each [length], by their names in Rows."""
    numbers = np.frombuffer(record, np.int32).reshape(len(Rows._fields), length)
    return dict(zip(Rows._fields, numbers, strict=True)) | {"weights": numbers[-1].view(np.float32)}


def prepare() -> str:
    """Returns the peer's name and version. Raises ImportError where it is missing."""
    import grain.python  # noqa: F401

    return f"Grain {metadata.version('grain')}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        serve(prepare, {"data": functools.partial(feeding, folder=Path(folder))}, "grain")
