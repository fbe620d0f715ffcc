"""Opens data sets of the Hugging Face package `datasets`: from its cache, from the Hub, or from a folder.

`hf:NAME[:CONFIG]/SPLIT[slice]` or `hf:FOLDER[slice]`, where `save_to_disk` wrote the folder. data/sources/source.py
calls it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from data.config import Source
from data.errors import DataError
from data.sources.document import Document, Refusal, SourceFile
from data.sources.files import expand_home, translate_os_errors
from data.sources.records import Fields, read_record

PREFIX = "hf:"
PART_BYTES = 2**28  # of the data set's files to a file of the source: several processes prepare them at the same time
BATCH_BYTES = 2**22  # of text that is read at once, about


class RowFile:
    """Rows of a data set, those numbered in `part` (SourceFile). The digest is of the fields that are read."""

    format = "hf"

    def __init__(self, dataset, part: range, fields: Fields, name: str):
        self.dataset, self.part, self.fields, self.name = dataset, part, fields, name
        with translate_os_errors(name):
            statuses = [Path(file["filename"]).stat() for file in dataset.cache_files]
        self.stamp = [part.start, part.stop, *([status.st_size, status.st_mtime_ns] for status in statuses)]
        self.size = text_bytes(dataset) * len(part) // len(dataset)
        self.sha256: str | None = None

    def documents(self) -> Iterator[Document | Refusal]:
        for number, row in self.hashed_rows():
            yield read_record(row, self.fields, f"{self.name}#{number}", "feature {!r} is")

    def digest(self) -> str:
        if self.sha256 is None:
            deque(self.hashed_rows(), maxlen=0)
        return self.sha256

    def hashed_rows(self) -> Iterator[tuple[int, dict]]:
        """(number, row) of every row. Read to the end, it leaves the rows' digest in `sha256`."""
        sha256 = hashlib.sha256()
        batch = max(1, BATCH_BYTES * len(self.part) // max(self.size, 1))
        rows = self.dataset.select(self.part)
        with explain_errors(self.name):
            for start in range(0, len(rows), batch):
                for number, row in enumerate(rows[start : start + batch].to_pylist(), self.part[start]):
                    sha256.update(json.dumps(row).encode() + b"\n")
                    yield number, row
        self.sha256 = sha256.hexdigest()


def open_split(source: Source, fields: Fields) -> list[SourceFile]:
    """The rows of a data set's split, in order. Raises DataError where there is none, or no such row or feature."""
    require_datasets(source.path)
    name, bracket, rest = source.path.removeprefix(PREFIX).partition("[")
    rows = bracket + rest
    folder = expand_home(name)
    is_folder = name and folder.is_dir()
    with explain_errors(source.path):
        dataset = load_folder(folder, rows, source.path) if is_folder else load_split(name, rows, source.path)
    if not len(dataset):
        raise DataError(f"{source.path}: no row in it")
    fields = check_features(dataset, fields, source.path)
    dataset = dataset.select_columns(fields.names).with_format("arrow")
    return [RowFile(dataset, part, fields, source.path) for part in divide_rows(dataset)]


def require_datasets(path: str) -> None:
    """Raises DataError where the package is not installed."""
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{path}: the package datasets reads it and is not installed; pip install 'skald[hf]'")


@contextlib.contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Turns what `datasets` and Arrow raise into a DataError of one line."""
    import pyarrow  # heavy, and few sources need it

    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ConnectionError is an OSError
        raise DataError(f"{name}: {' '.join(str(error).split())}") from None


def load_folder(folder: Path, rows: str, path: str):
    """What `save_to_disk` wrote to a folder; `rows` is a slice of it, as "[:10%]", or empty."""
    import datasets  # heavy, and an optional dependency

    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        raise DataError(f"{path}: a folder of several splits; add one to the path, as {PREFIX}{folder}/{splits[0]}")
    if not (folder / "state.json").is_file():
        raise DataError(f"{path}: no data set in this folder; save_to_disk writes one (there is no state.json)")
    dataset = datasets.load_from_disk(str(folder))
    [part] = datasets.ReadInstruction.from_spec(f"all{rows}").to_absolute({"all": len(dataset)})
    return dataset.select(range(part.from_, part.to) or [])  # no range that is empty and begins behind the end


def load_split(name: str, rows: str, path: str):
    """A split of a data set by its name: from the cache of `datasets`, else by its own means, which may download it."""
    import datasets  # heavy, and an optional dependency
    from datasets.packaged_modules.cache.cache import Cache  # what load_dataset takes where there is no network

    name, _, split = name.rpartition("/")
    name, _, config = name.partition(":")
    if not name or not split or Path(name).exists():  # load_dataset would read any files of such a folder
        raise DataError(f"{path}: no such folder; the split of a data set of the Hub is {PREFIX}NAME/SPLIT")
    try:
        cached = Cache(
            repo_id=name, dataset_name=name.rpartition("/")[2], config_name=config or None, version="auto", hash="auto"
        )
    except ValueError as error:
        with explain_errors(f"{path}: {' '.join(str(error).split())}"):
            return datasets.load_dataset(name, config or None, split=split + rows)
    return cached.as_dataset(split=split + rows)


def check_features(dataset, fields: Fields, path: str) -> Fields:
    """What is read of the data set. Raises DataError where it lacks a feature, or one is of another type."""
    schema = dataset.features.arrow_schema
    fields = fields.of_table(schema.names, path, "feature")
    for name in fields.names:
        if fields.template is None and not (is_token_ids if fields.ids else is_text)(schema.field(name).type):
            wanted = "a list of whole numbers" if fields.ids else "a text"
            raise DataError(f"{path}: feature {name!r} is not {wanted}, but {dataset.features[name]!r}")
    return fields


def is_text(arrow_type) -> bool:
    from pyarrow import types  # heavy, and few sources need it

    return types.is_string(arrow_type) or types.is_large_string(arrow_type)


def is_token_ids(arrow_type) -> bool:
    from pyarrow import types  # as above

    is_list = types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)
    return is_list and types.is_integer(arrow_type.value_type)


def divide_rows(dataset) -> list[range]:
    """Parts of about PART_BYTES each, in order."""
    rows = max(1, PART_BYTES * len(dataset) // max(text_bytes(dataset), 1))
    return [range(start, min(start + rows, len(dataset))) for start in range(0, len(dataset), rows)]


def text_bytes(dataset) -> int:
    """Bytes of a data set's columns in memory, about: a selection of rows is as large as its share of them."""
    table = dataset.data
    return table.nbytes * len(dataset) // max(table.num_rows, 1)
