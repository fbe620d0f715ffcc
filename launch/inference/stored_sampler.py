"""Default samplers that a person stored for checkpoints of a run, in RUN/samplers.json; `skald quality --store` does.

The file belongs to the run, not to a checkpoint's folder, whose files are proven by their hashes, and it says of each
step which checkpoint it means: another one that is trained to the same step later does not take it over.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from data.errors import DataError
from data.whole_file import whole_file

NAME = "samplers.json"


def stored_sampler(run: Path, step: int, digest: str) -> str | None:
    """The sampler that is stored for a checkpoint; None: none is. Raises DataError where the file can't be read."""
    entry = read_samplers(run / NAME).get(str(step))
    return entry["sampler"] if entry and entry["checkpoint"] == digest else None


def store_sampler(run: Path, step: int, digest: str, sampler: str) -> None:
    """Stores the default sampler of a checkpoint, in the place of one that is stored. Raises DataError."""
    path = run / NAME
    write_samplers(path, read_samplers(path) | {str(step): {"sampler": sampler, "checkpoint": digest}})


def forget_sampler(run: Path, step: int, digest: str) -> str | None:
    """Takes the stored sampler of a step back and returns it; None: there was none for this checkpoint, though one of
    another that was there before is removed, too. Raises DataError."""
    path = run / NAME
    samplers = read_samplers(path)
    entry = samplers.pop(str(step), None)
    if entry is not None:
        write_samplers(path, samplers)
    return entry["sampler"] if entry and entry["checkpoint"] == digest else None


def read_samplers(path: Path) -> dict[str, dict]:
    """By step: `sampler`, the text of a chain, and `checkpoint`, the digest of that which has it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for entry in values.values():
            if not isinstance(entry["sampler"], str) or not isinstance(entry["checkpoint"], str):
                raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: no default samplers can be read from it; remove it, and checkpoints have their config's again"
        ) from None
    return values


def write_samplers(path: Path, samplers: dict[str, dict]) -> None:
    """Replaces the file as a whole; where nothing is left to store, there is none."""
    try:
        if not samplers:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        with whole_file(path) as out:
            out.write(json.dumps(samplers, ensure_ascii=False, indent=1).encode("utf-8") + b"\n")
    except OSError as error:
        raise DataError(f"{path}: can't write there ({error.strerror})") from None
