"""File formats that are no plain text (packed or binary), detected by the ends of names or the first bytes.

data/sources/source.py refuses such files: read as text, some would pass for it.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from data.errors import NotTextError


class Container(NamedTuple):
    """A file format: `signature` is a pattern of its first bytes, `remedy` a sentence where {} stands for the path."""

    name: str
    extensions: tuple[str, ...]
    signature: bytes
    remedy: str


DECOMPRESS = "unpack it, as with {program} -dc < {{}} > FILE"
RENAME_OR_DECOMPRESS = (
    "let its name end in {ending}, or " + DECOMPRESS
)  # with that name, data/sources/compression.py can
CONTAINERS = (  # the first that matches by name is taken, else the first that matches by content
    Container(
        "a tar archive",
        (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4"),
        rb".{257}ustar[\0 ]",
        "unpack it, as with tar -xf {}",
    ),
    Container("packed by gzip", (), rb"\x1f\x8b", RENAME_OR_DECOMPRESS.format(ending=".gz", program="gzip")),
    Container("packed by zstd", (), rb"\x28\xb5\x2f\xfd", RENAME_OR_DECOMPRESS.format(ending=".zst", program="zstd")),
    Container(
        "packed by bzip2",
        (),
        rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
        RENAME_OR_DECOMPRESS.format(ending=".bz2", program="bzip2"),
    ),
    Container("packed by xz", (), rb"\xfd7zXZ\0", RENAME_OR_DECOMPRESS.format(ending=".xz", program="xz")),
    Container("packed by lzma", (".lzma",), rb"(?!)", DECOMPRESS.format(program="xz")),
    Container("packed by lz4", (".lz4",), rb"\x04\x22\x4d\x18", DECOMPRESS.format(program="lz4")),
    Container("a 7-Zip archive", (".7z",), rb"7z\xbc\xaf\x27\x1c", "unpack it, as with 7z x {}"),
    Container("a RAR archive", (".rar",), rb"Rar!\x1a\x07", "unpack it, as with unrar x {}"),
    Container("a PDF", (".pdf",), rb"%PDF-\d\.\d\s", "take the text out, as with pdftotext {}"),
    Container(
        "an office document or e-book",
        (".docx", ".xlsx", ".xls", ".pptx", ".ppt", ".odt", ".ods", ".odp", ".rtf", ".epub", ".mobi"),
        rb"\xd0\xcf\x11\xe0|\{\\rtf\d",
        "save it as plain text, or a table as CSV",
    ),
    Container(
        "a Jupyter notebook", (".ipynb",), rb"(?!)", "take the text out, as with jupyter nbconvert --to markdown {}"
    ),
    Container(
        "a file of binary records",
        (".feather", ".orc", ".avro"),
        rb"ARROW1\0\0|FEA1\0|Obj\x01",
        "write its texts as parquet or JSON lines",
    ),
    Container(
        "a stream of Arrow tables", (".arrow",), rb"(?!)", "a folder that datasets' save_to_disk wrote is hf:FOLDER"
    ),
    Container(
        "a file of TensorFlow's records",
        (".tfrecord", ".tfrecords"),
        rb"(?!)",
        "write its texts as JSON lines, or with TFDS in the format array_record",
    ),
    Container(
        "a file of Riegeli records",
        (".riegeli",),
        rb"\x83\xafp\xd1\r\x88J\?",
        "let its name end in .array_record if that is what it is; data sets of TFDS are tfds:NAME/SPLIT",
    ),
    Container(
        "a file of arrays or weights",
        (".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".pkl", ".pickle", ".gguf", ".onnx"),
        rb"\x93NUMPY|\x89HDF|GGUF.\0\0\0|.{4}\0{4}\{",
        "a source is text",
    ),
    Container("a database", (".sqlite", ".sqlite3"), rb"SQLite format 3\0", "write its texts as JSON lines"),
    Container("a parquet file", (), rb"PAR1\x15", "let its name end in .parquet"),
    # Last: office documents, e-books, NumPy and PyTorch files are zip archives, too.
    Container("a zip archive, or saved as one", (".zip",), rb"PK(\x03\x04|\x05\x06)", "unpack it, as with unzip {}"),
)


def detect_by_name(name: str) -> Container | None:
    return next((container for container in CONTAINERS if name.lower().endswith(container.extensions)), None)


def detect_by_content(head: bytes) -> Container | None:
    """The kind of a file that begins with `head`: 300 bytes or more, as tar's signature stands at byte 257."""
    return next((container for container in CONTAINERS if re.match(container.signature, head, re.DOTALL)), None)


def refuse_container(name: str, container: Container | None) -> None:
    """Raises NotTextError where a file is a container; the message says how to get at its text."""
    if container:
        raise NotTextError(f"{name}: {container.name}, no text as it is; {container.remedy.format(shlex.quote(name))}")
