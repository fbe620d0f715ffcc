"""One trainer holds a run at a time: a locked file in its folder, with an attempt number. launch/train.py takes it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from train.run import RunError


def said(text: str) -> dict:
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
        held = said(self.file.read())
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder}: another trainer holds this run (process {held.get('process')} on {held.get('host')}); "
                f"wait for it, stop it, or take another --run-dir"
            ) from None
        self.attempt = held["attempt"] + 1
        self.file.seek(0)
        self.file.truncate()
        json.dump({"attempt": self.attempt, "process": os.getpid(), "host": socket.gethostname()}, self.file)
        self.file.flush()
