#!/usr/bin/env bash
# tensorflow-datasets 4.9.10 with array_record 0.8.6 and pyarrow 26.0.1 (CPython 3.11, no TensorFlow). Rows are lost,
# and nothing is said, in two ways.
# (1) TFDS's file_format="parquet" keeps the first 100 rows, skips 100, keeps 100, skips 200, keeps 100, skips 300, …
# (its writer takes slice i to i + 100 of an iterator that has moved on already). The description of the data set counts
# all of them; as_data_source has those that were kept, at other indices than in its description.
# (2) ArrayRecordReader takes a file whose end was cut off, even by a byte, an empty file, a text and a file that is not
# there for one of no records: num_records() is 0, and no error comes. Only ok() is False, and read_all() and close()
# raise: `[reader.read([i])[0] for i in range(reader.num_records())]` over such a file is empty, without a word.
# Seen: parquet: written 100, 200, 300, 1000, 10000; described the same; kept 100, 100, 200, 400, 1300.
#       array_record: records of a whole file 1000, of one without its last byte 0, empty 0, text 0, missing 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  tensorflow-datasets==4.9.10 array_record==0.8.6 pyarrow==26.0.1
cat >"$folder/lose.py" <<'end'
import contextlib
import sys

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

folder = sys.argv[1]


class Numbers(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(self.count):
            yield number, {"text": str(number)}


written, described, kept = [100, 200, 300, 1000, 10000], [], []
for Numbers.count in written:
    builder = Numbers(data_dir=f"{folder}/{Numbers.count}", file_format="parquet")
    with contextlib.redirect_stdout(None):
        builder.download_and_prepare()
    described.append(builder.info.splits["train"].num_examples)
    kept.append(len(builder.as_data_source("train")))
print("parquet: written", written, "described", described, "kept", kept)
assert described == written and kept == [100, 100, 200, 400, 1300], "parquet has changed"

paths = {name: f"{folder}/{name}" for name in ("whole", "cut", "empty", "text", "missing")}
writer = ArrayRecordWriter(paths["whole"], "group_size:1")
for number in range(1000):
    writer.write(b"%d" % number)
writer.close()
content = open(paths["whole"], "rb").read()
for name, part in (("cut", content[:-1]), ("empty", b""), ("text", b"To be, or not to be\n" * 9999)):
    open(paths[name], "wb").write(part)
readers = {name: ArrayRecordReader(path) for name, path in paths.items()}
counts = {name: (reader.num_records(), reader.ok()) for name, reader in readers.items()}
print("array_record: (num_records, ok)", counts)
assert counts.pop("whole") == (1000, True)
assert set(counts.values()) == {(0, False)}, "it tells now"
end
timeout 300 "$folder/venv/bin/python" "$folder/lose.py" "$folder" 2>"$folder/log" || { tail -20 "$folder/log"; exit 1; }
