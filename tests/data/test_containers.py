"""Packed and binary files, written by the libraries that make them, are refused by name and by content."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import shlex
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from data.config import Source
from data.errors import DataError
from data.sources import source as sources
from data.sources.compression import CODECS

TEXT = b'{"text": "To be, or not to be."}\n'


def tar(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        entry = tarfile.TarInfo("text.jsonl")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text.jsonl", TEXT)


def arrow_packed(path: Path, codec: str) -> None:
    with pyarrow.CompressedOutputStream(str(path), codec) as out:
        out.write(TEXT)


def database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table texts (text)")
    connection.close()


TABLE = pyarrow.table({"text": ["To be, or not to be."]})
MADE = {  # usual ending: what writes it, and what is said of it
    ".gz": (lambda path: path.write_bytes(gzip.compress(TEXT)), "gzip -dc < "),
    ".bz2": (lambda path: path.write_bytes(bz2.compress(TEXT)), "bzip2 -dc < "),
    ".xz": (lambda path: path.write_bytes(lzma.compress(TEXT)), "xz -dc < "),
    ".zst": (lambda path: arrow_packed(path, "zstd"), "zstd -dc < "),
    ".lz4": (lambda path: arrow_packed(path, "lz4"), "lz4 -dc < "),
    ".zip": (zipped, "unzip "),
    ".tar": (lambda path: tar(path, "w"), "tar -xf "),
    ".feather": (lambda path: pyarrow.feather.write_feather(TABLE, path), "as parquet or JSON lines"),
    ".npy": (lambda path: np.save(path.open("wb"), np.arange(9)), "arrays or weights"),
    ".sqlite": (database, "a database"),
}
BY_NAME = (
    ".tgz",
    ".tar.gz",
    ".tar.zst",
    ".lzma",
    ".jsonl.LZ4",
    ".pdf.gz",
    ".rar",
    ".7z",
    ".pdf",
    ".docx",
    ".xlsx",
    ".ipynb",
    ".tfrecord",
    ".pkl",
)


def said_of(path: Path) -> str:
    with pytest.raises(DataError) as error:
        list(sources.read_documents(Source(str(path))))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending", MADE)
@pytest.mark.parametrize("name", ["a{}", "a.jsonl{}", "a.txt", "a", "a.jsonl", "a.json", "a.csv"])
def test_what_libraries_pack_is_refused_whatever_its_name(tmp_path, ending, name):
    """But for compressed files under their own name, which are read: test_compression.py."""
    if ending in CODECS:
        name = name.replace("{}", ".text")
    path = tmp_path / name.format(ending)
    MADE[ending][0](path)
    assert MADE[ending][1] in said_of(path)


def test_a_parquet_file_is_read_by_its_name_alone(tmp_path):
    for name in ("a.PARQUET", "a.txt", "a.parquet.gzip"):
        pyarrow.parquet.write_table(TABLE, tmp_path / name)
    assert [d.text for d in sources.read_documents(Source(str(tmp_path / "a.PARQUET")))] == TABLE["text"].to_pylist()
    for name in ("a.txt", "a.parquet.gzip"):
        assert "let its name end in .parquet" in said_of(tmp_path / name)


@pytest.mark.parametrize("ending", BY_NAME)
def test_names_of_packed_and_binary_files_are_enough(tmp_path, ending):
    (tmp_path / f"a{ending}").write_bytes(TEXT)
    assert "no text as it is" in said_of(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    "content", ["ab".encode("utf-16-le"), pickle.dumps([1]), json.dumps({}).encode() + b"\0", b"\0" * 9]
)
def test_zero_bytes_are_no_text(tmp_path, content):
    """UTF-16 without a mark, token ids and most binary files are valid UTF-8, byte by byte, or nearly."""
    (tmp_path / "a.pt").write_bytes(content)
    assert re.search("a zero byte at [0-9]+|not UTF-8", said_of(tmp_path / "a.pt"))


def test_endings_that_are_languages_too_hold_text(tmp_path):
    """europarl-v7.pt-en.pt is Portuguese."""
    (tmp_path / "europarl.pt").write_text("Está bem.")
    assert [d.text for d in sources.read_documents(Source(str(tmp_path / "europarl.pt")))] == ["Está bem."]


def test_the_way_to_unpack_works(tmp_path):
    """The command as it is said, in a shell, for a name with a space."""
    import subprocess

    path = tmp_path / "my text.jsonl"
    path.write_bytes(gzip.compress(TEXT))
    assert "let its name end in .gz, or unpack it" in said_of(path)
    command = re.search("as with (gzip .*) > FILE", said_of(path))[1]
    assert shlex.split(command)[-1] == str(path)
    assert subprocess.run(command, shell=True, capture_output=True, check=True).stdout == TEXT


@pytest.mark.parametrize("text", ["GGUF is a format", "%PDF-1 begins such files", "{\\rtf, they say", "FEA1 and Obj"])
def test_a_text_may_begin_with_the_letters_of_another_format(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert [d.text for d in sources.read_documents(Source(str(tmp_path / "a.txt")))] == [text]
