"""The texts of all settings as JSON lines: kept as they are written, and gone on with after a kill.

Each line begins with the digest of what its text depends on, so that a file may hold texts of several grids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from launch.inference.appended_file import AppendedFile
from launch.quality.plan import Wanted


class Text(NamedTuple):
    """A text without its prompt: ids without the end token, and what they say. `finish_reason`: as a completion's.
    `seconds`: since the one before it was written, so that all together are the seconds of writing."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str
    seconds: float


class TextsFile(AppendedFile):
    """A file of texts. `texts`: by digest.

    Raises DataError where a line is no text, or while another process writes into the file.
    """

    remedy = "let it, or wait until it is done"

    def __init__(self, path: Path):
        self.texts: dict[str, Text] = {}
        super().__init__(path)

    def read(self) -> int:
        size = 0
        for number, line in enumerate(self.file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                value = json.loads(line)
                text = Text(tuple(value["tokens"]), value["text"], value["finish_reason"], value["seconds"])
                self.texts[value["digest"]] = text
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{self.path}:{number}: no text of skald quality; move the file away, and all is written anew"
                ) from None
            size += len(line)
        return size

    def add(self, wanted: Wanted, prompt: str, text: Text) -> None:
        """Keeps a text, on the disk by the time that this returns to a process that is killed."""
        self.texts[wanted.digest] = text
        known = {"digest": wanted.digest, "setting": wanted.setting.chain, "prompt": prompt, "index": wanted.index}
        self.write([json.dumps(known | text._asdict(), ensure_ascii=False) + "\n"])
