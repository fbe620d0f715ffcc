"""Opens stores: the tokenized documents of a source, read by memory map. data/splits.py chooses documents of them.

A store is a folder of the cache. Its name says what it holds: the tokenizer and the content of the source. It holds
manifest.json, the tokens in shards (tokens-00000.bin, …, a document in one of them), and of every document where it
starts (offsets.npy), the bytes of its text (sizes.npy) and a hash of it (hashes.npy); pieces.npy and counted.npy where
not every token counts; halves.npy, where the second half of each document begins, where they are preference pairs;
refused.npy where records were left out: for each the number of documents in front of it.
places/ remembers under which paths its source was seen, with sizes and times of change, so that it is read again only
where these differ. data/store/build.py writes stores.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import Source
from data.documents import Documents, Pieces, lossy_notice
from data.errors import DataError
from data.plans import SavedPlans
from data.sources.document import SourceFile
from data.sources.source import FIELD_REMEDY, combine_fingerprint, open_source
from data.store.build import build_store
from data.store.place import Place, note_use, store_name, stores_folder, tokenizer_part
from data.store.shards import TokenShards
from data.tokenizers.tokenizer import Tokenizer, tokenizer_fingerprint

Report = Callable[[str], None]


class Origin(NamedTuple):
    """Where a document comes from: the number of its file in the source, and of its record in the file, from 0."""

    file: int
    record: int


class Store:
    """A store opened for reading: all its `documents`, a 64-bit hash of each, and the `manifest` with its counts."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text())
            tokens = TokenShards(folder, self.manifest)
            offsets, sizes, self.hashes = (load(folder / f"{name}.npy") for name in ("offsets", "sizes", "hashes"))
            starts = folder / "pieces.npy"
            pieces = Pieces(load(starts), load(folder / "counted.npy")) if starts.is_file() else None
            halves = load(folder / "halves.npy") if (folder / "halves.npy").is_file() else None
            self.refused = load(folder / "refused.npy") if self.manifest["refused"]["documents"] else np.zeros(0)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: a damaged token store ({error}); remove it, and it is made again") from None
        self.documents = Documents(tokens, offsets, sizes, self.manifest["ended"], pieces, halves=halves)
        self.plans = SavedPlans(folder / "plans")
        note_use(folder)

    @property
    def fingerprint(self) -> dict:
        """What tells this store from every other."""
        return {name: self.manifest[name] for name in ("source", "tokenizer", "tokens")}

    def origin(self, document: int) -> Origin:
        """Where the document of this number comes from. Records that were left out are counted, too."""
        record = document + int(np.searchsorted(self.refused, document, side="right"))
        ends = np.cumsum(self.manifest["records_by_file"])
        file = int(np.searchsorted(ends, record, side="right"))
        return Origin(file, record - int(ends[file - 1]) if file else record)


def load(file: Path) -> np.ndarray:
    return np.asarray(np.load(file, mmap_mode="r"))


def find_store(cache: Path, fingerprint: dict) -> Store | None:
    """The store of this fingerprint, if the cache has it: its source need not be there any more."""
    folder = stores_folder(cache) / store_name(fingerprint["tokenizer"], fingerprint["source"])
    return Store(folder) if (folder / "manifest.json").is_file() else None


def open_store(
    source: Source,
    tokenizer: Tokenizer,
    cache: Path,
    report: Report = lambda _: None,
    field_remedy: str = FIELD_REMEDY,
) -> Store:
    """Opens the store of a source under a tokenizer, and builds it first if the cache does not have it.

    Files whose size and time of change are those that a store was made of are not read. `report` is given lines for a
    person: progress, documents that were refused, and where the tokenizer changes the text. Raises DataError for bad
    text, and where the cache can't be written; with `field_remedy` where records lack the source's field.
    """
    files = open_source(source, ids=tokenizer.reads_ids)
    place = Place(source, files)
    name = tokenizer_fingerprint(tokenizer)
    try:
        folder = place.find(stores_folder(cache), name) or find_by_content(source, files, place, cache, name, report)
        if folder is None:
            folder = build_store(source, tokenizer, files, place, stores_folder(cache), report, field_remedy)
    except OSError as error:
        raise DataError(explain_cache_error(cache, error)) from None
    store = Store(folder)
    check_refused(source, store.manifest, report)
    if store.manifest["change"]:
        report(lossy_notice(store.manifest["change"]))
    return store


def explain_cache_error(cache: Path, error: OSError) -> str:
    line = f"{cache}: can't write the token cache ({error.strerror or error})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{line}; make room there and start again, what is done is kept; or set SKALD_CACHE to another folder"
    return f"{line}; set SKALD_CACHE to another folder"


def check_refused(source: Source, manifest: dict, report: Report) -> None:
    """Reports the documents that a store leaves out. Raises DataError where they are more than the source allows."""
    refused = manifest["refused"]
    if not refused["documents"]:
        return
    share = refused["documents"] / (refused["documents"] + manifest["documents"])
    line = f"{refused['documents']} records ({share:.2%}) are left out (the first: {refused['reasons'][0]})"
    if share > source.max_refused:
        raise DataError(f"{source.path}: {line}; mend them, or allow as many with its max_refused={share:.2g}")
    report(f"{source.path}: {line}")


def find_by_content(
    source: Source, files: list[SourceFile], place: Place, cache: Path, tokenizer: str, report: Report
) -> Path | None:
    """The store of files with the same content, that were moved or touched; they are read if sizes are the same."""
    sizes = [file.size for file in files]
    alike = [m for m in manifests(stores_folder(cache), tokenizer_part(tokenizer)) if m["sizes"] == sizes]
    if not alike:
        return None
    report(f"{source.path}: files of the same sizes were tokenized before; comparing their content")
    fingerprint = combine_fingerprint(source, ((file, file.digest()) for file in files))
    folder = stores_folder(cache) / store_name(tokenizer, fingerprint)
    if not (folder / "manifest.json").is_file():
        return None
    place.remember(folder)
    return folder


def manifests(stores: Path, tokenizer: str) -> Iterator[dict]:
    for file in stores.glob(f"{tokenizer}-*/manifest.json"):
        try:
            yield json.loads(file.read_text())
        except (OSError, ValueError):
            continue
