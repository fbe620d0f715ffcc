"""The reader of each file format, by the extension. data/sources/stream_file.py calls it.

A reader takes a buffered stream of bytes, the file's name for messages, and the fields that are read; it yields
documents and refusals. It raises DataError where the file as a whole can't be read.
"""

from __future__ import annotations

import functools

from data.sources.csv_rows import read_csv
from data.sources.json_records import read_json, read_json_lines
from data.sources.parquet import read_parquet

READERS = {  # any other file is a text
    ".jsonl": read_json_lines,
    ".jsonlines": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": functools.partial(read_csv, delimiter=","),
    ".tsv": functools.partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
}
RANDOM_ACCESS = (".parquet",)  # read here and there, by seeking
