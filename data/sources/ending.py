"""The end of a file's name, which says how the file is read. data/sources/source.py and its files ask for it."""

from __future__ import annotations

import os
from typing import NamedTuple

from data.sources.compression import CODECS


class Ending(NamedTuple):
    """Of "a.JSONL.gz" it is `extension` ".jsonl", the kind of records, and `compression` ".gz"; either may be empty."""

    extension: str
    compression: str


def detect_ending(name: str) -> Ending:
    """The ending of a name or a path, in lower case."""
    stem, extension = os.path.splitext(name.lower())
    if extension in CODECS:
        return Ending(os.path.splitext(stem)[1], extension)
    return Ending(extension, "")
