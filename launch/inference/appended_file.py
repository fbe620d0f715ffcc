"""A file of lines that one process at a time appends to, and goes on with after a kill: answers, results of tasks."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError


class AppendedFile:
    """A file of lines. A subclass reads those that are there (`read`), and says what to do while another process writes
    (`remedy`). What stands behind the lines that it keeps is cut off, as a line torn by a kill.

    Raises DataError where the file can't be written, or another process writes into it.
    """

    remedy: str

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = open(path, "a+b")  # noqa: SIM115  # it stays open
        except OSError as error:
            raise DataError(f"{path}: can't write there ({error.strerror})") from None
        try:
            self.lock()
            self.file.seek(0)
            self.file.truncate(self.read())
        except BaseException:
            self.file.close()  # and the lock with it, while somebody still looks at the error
            raise

    def lock(self) -> None:
        """Keeps other processes out until this one ends, where the file system can."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{self.path}: another process writes into it; {self.remedy}") from None
        except OSError:  # no locks there
            return

    def read(self) -> int:
        """Reads the lines of `file`, and returns the bytes of those that are kept."""
        raise NotImplementedError

    def write(self, lines: Sequence[str]) -> None:
        """Appends lines, which a kill of this process can't take back."""
        self.file.write("".join(lines).encode("utf-8"))
        self.file.flush()

    def close(self) -> None:
        """Lets other processes write."""
        self.file.close()


def begins_as(line: bytes, beginning: bytes) -> bool:
    """Whether a line begins so, or is a torn piece of such a beginning."""
    return line.startswith(beginning) or (not line.endswith(b"\n") and beginning.startswith(line))
