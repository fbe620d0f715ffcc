"""Opens data sets that TensorFlow Datasets (TFDS) has prepared, without TensorFlow: `tfds:NAME/SPLIT`.

data/sources/source.py calls it. Nothing is downloaded or prepared here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.config import Source
from data.errors import DataError, NotTextError
from data.sources.array_records import RecordFile, Records
from data.sources.document import Document, Refusal, SourceFile
from data.sources.records import Fields, format_names, read_record
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


def open_split(source: Source, fields: Fields) -> list[SourceFile]:
    """The shards of a split, or of a slice of it, in their order.

    Raises DataError where there is no such data set, split or record, or it can't be read without TensorFlow, and
    MissingFieldError where it has no such feature.
    """
    name, _, split = source.path.removeprefix(PREFIX).rpartition("/")
    if not name or not split:
        raise DataError(
            f"{source.path}: no data set and split; write {PREFIX}NAME/SPLIT, as tfds:my_novels/train[:90%]"
        )
    builder = find_builder(name, source)
    fields = fields.of_table(sorted(builder.info.features), source.path, "feature")
    read = functools.partial(read_examples, select_features(builder, source, fields), fields)
    shards = slice_split(builder, split, source)
    return [
        RecordFile(Path(shard.filename), read, range(shard.skip, shard.skip + shard.take), shard.examples_in_shard)
        for shard in shards
    ]


def find_builder(name: str, source: Source):
    """The builder of a prepared data set. Raises DataError where there is none, or none in a format to be read."""
    import tensorflow_datasets as tfds  # heavy, and only these sources need it
    from google.protobuf.json_format import ParseError  # TFDS brings it
    from tensorflow_datasets.core.read_only_builder import builder_from_files  # it never looks at code or the network

    folder = data_folder()
    try:
        builder = builder_from_files(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        raise DataError(
            f"{source.path}: no prepared data set {name!r} in {folder} (the environment variable TFDS_DATA_DIR names "
            f"another folder); there: {format_names(list_prepared(folder))}. To prepare it: {PREPARE.format(name)}"
        ) from None
    except (ValueError, OSError, ParseError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"{source.path}: TFDS can't open {name!r} in {folder} ({message})") from None
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


def select_features(builder, source: Source, fields: Fields):
    """TFDS's description of the features that are read, which parses no others. Raises DataError for one of
    another type."""
    import tensorflow_datasets as tfds  # heavy, and only these sources need it

    features = builder.info.features
    for name in fields.names:
        if fields.template is None and not (is_token_ids if fields.ids else is_text)(features[name]):
            wanted = "a sequence of whole numbers" if fields.ids else "a text"
            raise DataError(f"{source.path}: feature {name!r} is not {wanted}, but {features[name]!r}")
    return tfds.features.FeaturesDict({name: features[name] for name in fields.names})


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


def read_examples(features, fields: Fields, records: Records) -> Iterator[Document | Refusal]:
    """A document of each example, as TFDS writes them."""
    for origin, record in records:
        yield record if isinstance(record, Refusal) else read_example(features, fields, record, origin)


def read_example(features, fields: Fields, record: bytes, origin: str) -> Document | Refusal:
    from google.protobuf.message import DecodeError  # TFDS brings it

    try:
        values = features.deserialize_example_np(record)
        if fields.template is None:
            values = {name: decode_feature(value, f"{origin}: feature {name!r}") for name, value in values.items()}
    except DecodeError as error:
        return Refusal(f"{origin}: not an example as TFDS writes them ({error})")
    except NotTextError as error:
        return Refusal(str(error))
    return read_record(values, fields, origin, "feature {!r} is")


def decode_feature(value: bytes | list | np.ndarray, origin: str) -> str | np.ndarray:
    return decode_utf8(value, origin) if isinstance(value, bytes) else np.asarray(value)
