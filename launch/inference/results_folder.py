"""The folder that keeps a result of each example: of tasks, and of those of lm-evaluation-harness."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data.errors import DataError
from launch.inference.checkpoint import DescribedCheckpoint


def results_folder(run: DescribedCheckpoint, results: str | Path | None) -> Path:
    """The folder `results`, or where none is named tasks/STEP of the run. It is made, and a file was written in it.
    Raises DataError."""
    folder = Path(results) if results is not None else run.folder.parents[1] / "tasks" / str(run.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(
            f"{folder}: can't write there ({error.strerror}); name another folder with --results (in Python results=…)"
        ) from None
    return folder
