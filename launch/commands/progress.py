"""Lines of progress on standard error: on a terminal each takes the place of the one before it."""

from __future__ import annotations

import shutil
import sys

from data.store.progress import ProgressLine


class ProgressReport:
    """Prints the lines that it is called with."""

    def __init__(self):
        self.on_terminal = sys.stderr.isatty()
        self.replaceable = False  # whether the line printed last is one of progress

    def __call__(self, line: str) -> None:
        live = self.on_terminal and isinstance(line, ProgressLine)
        if live:
            line = line[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be taken back
        if live and self.replaceable:
            line = f"\x1b[F\x1b[K{line}"  # to the line above, and erase it
        print(line, file=sys.stderr, flush=True)
        self.replaceable = live
