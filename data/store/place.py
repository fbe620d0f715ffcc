"""Names of stores, and where their sources were seen. data/store/store.py finds stores by them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from data.config import Source
from data.sources.document import SourceFile
from data.sources.source import template_source
from data.whole_file import whole_file

FORMAT = 6  # of a store's files; part of its name


def stores_folder(cache: Path) -> Path:
    return cache / "stores"


def store_name(tokenizer: str, source: str) -> str:
    """The name of the store of a source under a tokenizer, both by their fingerprints."""
    return f"{tokenizer_part(tokenizer)}-{source[:24]}"


def tokenizer_part(tokenizer: str) -> str:
    return hashlib.sha256(f"{FORMAT} {tokenizer}".encode()).hexdigest()[:16]


def note_use(folder: Path) -> None:
    """Notes that a store is used now: its manifest's time of change says when it was used last."""
    with contextlib.suppress(OSError):  # a cache that others own
        os.utime(folder / "manifest.json")


def absolute_name(name: str) -> str:
    """The name of a file, the same in every working directory; that of no local file (a URL) as it is."""
    return os.path.abspath(name) if os.path.exists(name) else name


class Place:
    """Where a source lies, and the sizes and times of change of its files: what a later start compares."""

    def __init__(self, source: Source, files: list[SourceFile]):
        fields = [source.field, source.prompt] if source.template is None else [template_source(source)]
        fields += [] if source.rejected is None else [{"field": source.field, "rejected": source.rejected}]
        identity = [*fields, *(absolute_name(file.name) for file in files)]
        self.name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        self.stamps = [file.stamp for file in files]

    def find(self, stores: Path, tokenizer: str) -> Path | None:
        """The store that was made of these very files under a tokenizer, or None."""
        for file in stores.glob(f"{tokenizer_part(tokenizer)}-*/places/{self.name}.json"):
            try:
                if json.loads(file.read_text()) == self.stamps and (file.parents[1] / "manifest.json").is_file():
                    return file.parents[1]
            except (OSError, ValueError):
                continue  # removed in this moment
        return None

    def remember(self, folder: Path) -> None:
        """Notes in a store that its source lies here, where that can be written."""
        try:
            (folder / "places").mkdir(exist_ok=True)
            with whole_file(folder / "places" / f"{self.name}.json") as file:
                file.write(json.dumps(self.stamps).encode())
        except OSError:
            return  # a cache that can't be written: the files are compared by content each time
