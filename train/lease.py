"""One trainer holds a run at a time: a locked file in its folder, with an attempt number. `skald train` takes it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from train.run import RunError

VISIBLE_SECONDS = 30.0  # seconds: clients of a network file system may remember for so long that a file was not there


def parse_holder(text: str) -> dict:
    """What a lease tells of its holder; what is no lease tells nothing."""
    try:
        return {"attempt": 0, **json.loads(text)}
    except (ValueError, TypeError):
        return {"attempt": 0}


class Lease:
    """Held from construction to the end of the process, however it ends: the kernel lets go of the lock.

    Raises RunError naming who holds it.
    """

    def __init__(self, folder: Path):
        self.file = (folder / "lease.json").open("a+")
        self.file.seek(0)
        held = parse_holder(self.file.read())
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder}: another trainer holds this run (process {held.get('process')} on {held.get('host')}); "
                f"wait for it, stop it, or take another --run-dir"
            ) from None
        self.attempt = held["attempt"] + 1
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
    """For the run's other processes: raises RunError where this folder is not the one that its holder wrote to."""
    file, deadline = folder / "lease.json", time.monotonic() + VISIBLE_SECONDS
    while not (file.is_file() and parse_holder(file.read_text()) == holder):
        if time.monotonic() > deadline:
            raise RunError(
                f"{folder.absolute()} on {socket.gethostname()} is not the folder that {holder['host']} writes to; "
                f"--run-dir must name one that all machines share"
            )
        time.sleep(0.2)
