"""Folders that appear whole or not at all, whatever ends the process that writes them. Export writes one."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from train.huggingface.writing import ExportError


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes its name once all is written and proven; else it is removed.

    Until then it is FOLDER.partial; what a killed process left there is replaced. Raises ExportError where the folder
    is there already, and where the disk is full.
    """
    refuse_existing(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        refuse_existing(folder)  # an empty folder would be replaced without a word
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(f"{folder}: no space left on its disk; nothing of it was kept") from None
        raise


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise ExportError(f"{folder}: is there already; name a folder that is not, or remove it")


def require_space(folder: Path, needed: int) -> None:
    """Raises ExportError where the disk has fewer bytes left."""
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ExportError(
            f"{folder}: takes {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB left; free some first"
        )
