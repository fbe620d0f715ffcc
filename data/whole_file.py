"""Files that appear whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A new file that takes its name, from another one if there is one, once all is written; else it is removed.

    Not one of tempfile's, which no other user can read.
    """
    unfinished = file.with_name(f"{file.name}.unfinished-{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
