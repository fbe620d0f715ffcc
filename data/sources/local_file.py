"""A file on this machine as a file of a source. data/sources/source.py lists them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import BinaryIO

from data.sources.ending import Ending, detect_ending
from data.sources.files import translate_os_errors
from data.sources.records import Fields
from data.sources.stream_file import StreamFile


class LocalFile(StreamFile):
    """A file on this machine (SourceFile)."""

    __slots__ = ()

    def __init__(self, name: str, status: os.stat_result, fields: Fields):
        super().__init__(name, local_ending(name), status.st_size, [status.st_size, status.st_mtime_ns], fields)

    def open(self) -> BinaryIO:
        with self.errors():
            return open(self.name, "rb", buffering=0)

    def errors(self) -> AbstractContextManager:
        return translate_os_errors(self.name)


def local_ending(path: str) -> Ending:
    """The ending that says how a file is read; of a link without one, its target's."""
    ending = detect_ending(path)
    return ending if any(ending) else detect_ending(os.path.realpath(path))
