"""Opens data sets that TensorFlow Datasets (TFDS) has prepared, without TensorFlow: `tfds:NAME/SPLIT`.

data/sources/source.py calls it. Nothing is downloaded or prepared here.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from data.config import Source
from data.errors import DataError, MissingFieldError
from data.sources.array_records import RecordFile
from data.sources.document import Document, Piece, SourceFile
from data.sources.records import format_names
from data.sources.text import decode_utf8

PREFIX = "tfds:"
FORMAT = "array_record"
UNREADABLE = {  # TFDS's other formats, and why they are refused
    "tfrecord": "which only TensorFlow can read",
    "riegeli": "which only TensorFlow can read",
    "parquet": "of which TFDS 4.9 writes only some of the records",
}
PREPARE = (
    "python -c \"import tensorflow_datasets as tfds; tfds.builder('{}', file_format='array_record')"
    '.download_and_prepare()" (import the module of a builder of your own, too)'
)


def open_split(source: Source, ids: bool = False) -> list[SourceFile]:
    """The shards of a split, or of a slice of it, in their order. `ids`: the features are read as token ids.

    Raises DataError where there is no such data set, split or record, or it can't be read without TensorFlow, and
    MissingFieldError where it has no such feature.
    """
    name, _, split = source.path.removeprefix(PREFIX).rpartition("/")
    if not name or not split:
        raise DataError(
            f"{source.path}: no data set and split; write {PREFIX}NAME/SPLIT, as tfds:my_novels/train[:90%]"
        )
    builder = find_builder(name, source)
    parse = functools.partial(parse_example, select_features(builder, source, ids), source)
    shards = slice_split(builder, split, source)
    return [RecordFile(Path(shard.filename), parse, range(shard.skip, shard.skip + shard.take)) for shard in shards]


def find_builder(name: str, source: Source):
    """The builder of a prepared data set. Raises DataError where there is none, or none in a format to be read."""
    import tensorflow_datasets as tfds  # heavy, and only these sources need it
    from tensorflow_datasets.core.read_only_builder import builder_from_files  # it never looks at code or the network

    folder = data_folder()
    try:
        builder = builder_from_files(name, data_dir=folder)
    except (ValueError, OSError):  # no such name, configuration or version; or its description is damaged
        raise DataError(
            f"{source.path}: no prepared data set {name!r} in {folder} (the environment variable TFDS_DATA_DIR names "
            f"another folder); there: {format_names(list_prepared(folder))}. To prepare it: {PREPARE.format(name)}"
        ) from None
    formats = {format.value for format in builder.info.available_file_formats()}
    if FORMAT not in formats:
        reasons = ", ".join(f"as {format}, {UNREADABLE.get(format, 'which is unknown')}" for format in sorted(formats))
        remedy = f"remove {builder.data_path} and prepare it again: {PREPARE.format(name)}"
        raise DataError(f"{source.path}: prepared {reasons}; {remedy}")
    return tfds.builder_from_directory(builder.data_path, file_format=FORMAT)


def data_folder() -> Path:
    """The folder in which TFDS keeps what it has prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def list_prepared(folder: Path) -> list[str]:
    """The data sets in a folder, as NAME:VERSION or NAME/CONFIG:VERSION."""
    paths = [
        path.parent.relative_to(folder) for depth in ("*/*", "*/*/*") for path in folder.glob(f"{depth}/features.json")
    ]
    return sorted(f"{path.parent}:{path.name}" for path in paths)


def select_features(builder, source: Source, ids: bool):
    """TFDS's description of the features that the source names, which parses no others."""
    import tensorflow_datasets as tfds  # heavy, and only these sources need it

    features = builder.info.features
    names = [name for name in (source.prompt, source.field) if name is not None]
    for name in names:
        if name not in features:
            raise MissingFieldError(f"{source.path}: no feature {name!r}; there: {format_names(sorted(features))}")
        holds = (is_token_ids if ids else is_text)(features[name])
        if not holds:
            wanted = "a sequence of whole numbers" if ids else "a text"
            raise DataError(f"{source.path}: feature {name!r} is not {wanted}, but {features[name]!r}")
    return tfds.features.FeaturesDict({name: features[name] for name in names})


def is_text(feature) -> bool:
    return feature.shape == () and np.dtype(feature.np_dtype).kind == "O"


def is_token_ids(feature) -> bool:
    return isinstance(feature.shape, tuple) and len(feature.shape) == 1 and np.dtype(feature.np_dtype).kind in "iu"


def slice_split(builder, split: str, source: Source) -> list:
    """TFDS's instructions which records of which shards a split or a slice of it has."""
    try:
        selected = builder.info.splits[split]
    except ValueError as error:
        raise DataError(f"{source.path}: {str(error).splitlines()[-1]}") from None
    if selected.num_examples <= 0:  # TFDS counts fewer than none where a slice stops before it starts
        raise DataError(f"{source.path}: the split {split!r} has no record")
    return [shard for shard in selected.file_instructions if shard.take > 0]


def parse_example(features, source: Source, record: bytes, origin: str) -> Document:
    """The document of one example. Raises DataError naming its origin."""
    from google.protobuf.message import DecodeError  # TFDS brings it

    try:
        values = features.deserialize_example_np(record)
    except DecodeError as error:
        raise DataError(f"{origin}: not an example as TFDS writes them ({error})") from None
    piece = Piece(feature_content(values[source.field], f"{origin}: feature {source.field!r}"))
    if source.prompt is None:
        return Document((piece,), origin)
    prompt = feature_content(values[source.prompt], f"{origin}: feature {source.prompt!r}")
    return Document((Piece(prompt, counted=False), piece), origin)


def feature_content(value: bytes | list | np.ndarray, origin: str) -> str | np.ndarray:
    """The text or the token ids int64 [t] that a feature holds."""
    if isinstance(value, bytes):
        return decode_utf8(value, origin)
    tokens = np.asarray(value, np.int64)
    if (tokens < 0).any():
        index = int(np.argmax(tokens < 0))
        raise DataError(f"{origin}: token id {tokens[index]} at index {index} is negative")
    return tokens
