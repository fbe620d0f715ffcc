"""What benches gave before, to compare with: a line of JSON each, in the cache folder.

launch/commands/bench.py looks for the last one of the same bench on the same processor, and appends the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import date
from importlib import metadata
from pathlib import Path

from launch import VERSION
from launch.machine.detection import cache_folder
from train import fields
from train.config import Experiment


def history_file() -> Path:
    return cache_folder() / "bench.jsonl"


def identity(what: str, experiment: Experiment, case: dict, processor: str) -> dict:
    """What two benches have in common whose figures may be compared. The fingerprint is of the whole config."""
    config = json.dumps(fields.to_json(experiment), sort_keys=True)
    fingerprint = hashlib.sha256(config.encode()).hexdigest()[:16]
    return {
        "what": what,
        "config": experiment.name,
        "fingerprint": fingerprint,
        "case": case,
        "processor": processor,
    }


def last(identity: dict) -> dict | None:
    """The newest line of this bench; None where there is none. Lines that are torn or of other programs are skipped."""
    try:
        lines = history_file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((entry for line in reversed(lines) if (entry := parse(line)) and is_of(entry, identity)), None)


def parse(line: str) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"date", "busy", "figures"} <= entry.keys() else None


def is_of(entry: dict, identity: dict) -> bool:
    return all(entry.get(name) == value for name, value in identity.items())


def append(identity: dict, figures: dict, busy: str | None) -> None:
    """Appends a line in one write, so that benches at the same time do not mix theirs. Raises OSError."""
    versions = {"date": date.today().isoformat(), "skald": VERSION, "jax": metadata.version("jax")}
    line = json.dumps({**versions, **identity, "figures": figures, "busy": busy}) + "\n"
    history_file().parent.mkdir(parents=True, exist_ok=True)
    file = os.open(history_file(), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, b"\n" * bool(torn) + line.encode())
    finally:
        os.close(file)
