"""Lets one trainer at a time hold a run: a locked file in its folder, with an attempt number, for `skald train`."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from train.run import RunError

VISIBLE_TIMEOUT = 30.0  # seconds: a network file system's clients may cache for so long that a file is not there


def parse_holder(text: str) -> dict:
    """The holder that a lease's text names; {"attempt": 0} where the text is no lease."""
    try:
        return {"attempt": 0, **json.loads(text)}
    except (ValueError, TypeError):
        return {"attempt": 0}


class Lease:
    """A lock on a run, held from construction to the end of the process: however it ends, the kernel releases the lock.

    Raises RunError naming who holds it.
    """

    def __init__(self, folder: Path):
        self.file = (folder / "lease.json").open("a+")
        self.file.seek(0)
        last_holder = parse_holder(self.file.read())
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder}: another trainer holds this run (process {last_holder.get('process')} on "
                f"{last_holder.get('host')}); wait for it, stop it, or take another --run-dir"
            ) from None
        self.attempt = last_holder["attempt"] + 1
        self.holder = {
            "attempt": self.attempt,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.time(),
        }
        self.file.seek(0)
        self.file.truncate()
        json.dump(self.holder, self.file)
        self.file.flush()
        os.fsync(self.file.fileno())  # other hosts look for it


def check_shared(folder: Path, holder: dict) -> None:
    """For the run's other processes: raises RunError unless this is the folder that the holder wrote its lease to."""
    file, deadline = folder / "lease.json", time.monotonic() + VISIBLE_TIMEOUT
    while not (file.is_file() and parse_holder(file.read_text()) == holder):
        if time.monotonic() > deadline:
            raise RunError(
                f"{folder.absolute()} on {socket.gethostname()} is not the folder that {holder['host']} writes to; "
                f"--run-dir must name one that all machines share"
            )
        time.sleep(0.2)
