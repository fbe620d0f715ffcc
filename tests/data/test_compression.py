"""Compressed files, written by the libraries and read while they are decompressed; damaged and cut off ones."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import Source
from data.errors import DataError
from data.sources import source as sources

COMPRESS = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
NAMES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x05\0\0\0hello"  # RFC 8878, 3.1.2; pzstd writes such
endings = pytest.mark.parametrize("ending", COMPRESS)


def texts(path: Path) -> list[str]:
    return [document.text for document in sources.read_documents(Source(str(path)))]


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        texts(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@endings
def test_the_inner_ending_says_how_a_file_is_read(tmp_path, ending):
    for name, content, expected in (
        ("a.txt", "zwö\r\n", ["zwö\r\n"]),
        ("a", "\ufeffone", ["one"]),
        ("a.JSONL", '{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ("a.json", '["a", "b"]', ["a", "b"]),
        ("a.csv", 'text,n\n"a\nb",1\n', ["a\nb"]),
    ):
        for end in (ending, ending.upper()):
            assert texts(file(tmp_path / (name + end), COMPRESS[ending](content.encode()))) == expected


@endings
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.integers(0, 20_000) | st.just(0), min_size=1, max_size=4), padding=st.booleans())
def test_every_member_of_a_file_is_read(tmp_path, ending, members, padding):
    """As `cat a.gz b.gz` makes them; zeros fill up the last block of a tape."""
    contents = [json.dumps({"text": "x" * size}).encode() + b"\n" for size in members]
    skip = SKIPPABLE_FRAME if ending == ".zst" else b""
    packed = b"".join(skip + COMPRESS[ending](content) for content in contents) + bytes(5000) * padding
    assert texts(file(tmp_path / f"a.jsonl{ending}", packed)) == ["x" * size for size in members]


@endings
@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_file_that_is_cut_off_is_named(tmp_path, ending, cut):
    """zstandard's stream_reader gives the first frame, and not a word."""
    packed = COMPRESS[ending](b'{"text": "a"}\n' * 9) * 2
    said = refused(file(tmp_path / f"a.jsonl{ending}", packed[:-cut]))
    assert f"a.jsonl{ending}: {NAMES[ending]} data cut off at byte {len(packed) - cut}; copy" in said


@endings
def test_a_second_member_that_is_damaged_or_none_is_named(tmp_path, ending):
    """bz2.open and lzma.open give the first member, and not a word."""
    packed = COMPRESS[ending](b"one\n" * 500)
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 0x40
    for second in (b"no member", bytes(flipped), b"\0\0" + b"?" * 9000):
        assert f"{NAMES[ending]} data damaged before byte" in refused(file(tmp_path / f"a{ending}", packed + second))
    assert f"{NAMES[ending]} data damaged before byte" in refused(file(tmp_path / f"a{ending}", b"plain text"))


@endings
def test_compressed_files_without_text_are_left_out_as_empty_ones_are(tmp_path, ending):
    file(tmp_path / f"a{ending}", COMPRESS[ending](b""))
    file(tmp_path / f"b{ending}", COMPRESS[ending](b"b"))
    assert texts(tmp_path) == ["b"]
    assert "the file is empty" in refused(file(tmp_path / f"c{ending}", b""))


@endings
def test_what_is_no_text_inside_is_refused(tmp_path, ending):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    assert "a tar archive" in refused(file(tmp_path / f"a{ending}", COMPRESS[ending](archive.getvalue())))
    assert "not UTF-8 at byte 1 " in refused(file(tmp_path / f"b{ending}", COMPRESS[ending](b"a\xff")))
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), table)
    assert "unpack it" in refused(file(tmp_path / f"a.parquet{ending}", COMPRESS[ending](table.getvalue())))


@endings
def test_the_content_of_a_compressed_file_is_part_of_the_fingerprint_and_so_is_how_it_is_read(tmp_path, ending):
    packed = COMPRESS[ending](b'{"text": "a"}')
    found = {
        sources.fingerprint(Source(str(file(tmp_path / name, packed))))
        for name in ("a", f"a{ending}", f"a.jsonl{ending}")
    }
    assert len(found) == 3
