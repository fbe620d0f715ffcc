"""Parallel files of lines: a record of the same line of each."""

import gzip

import pytest

from data.config import Source
from data.errors import DataError
from data.sources.source import fingerprint, open_source, read_documents

PAIR = "{{ en }}={% generation %}{{ de }}{% endgeneration %}"


def write(folder, en: bytes, de: bytes) -> Source:
    (folder / "t.en").write_bytes(en)
    (folder / "t.de").write_bytes(de)
    return Source(str(folder / "t.{en,de}"), template=PAIR)


def texts(source):
    return [document.text for document in read_documents(source)]


def test_a_record_is_the_same_line_of_every_file(tmp_path):
    source = write(tmp_path, "\ufeffone\r\n\ntwo".encode(), "eins\n\u2028zwei\n\n".encode())
    assert texts(source) == ["one=eins", "=\u2028zwei", "two="]
    assert [document.origin for document in read_documents(source)][2].endswith("t.{en,de}:3")


def test_files_may_be_compressed_and_lie_in_folders(tmp_path):
    for name in ("en", "de"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.txt.gz").write_bytes(gzip.compress(f"{name} 1\n{name} 2\n".encode()))
    assert texts(Source(str(tmp_path / "{en,de}" / "t.txt.gz"), template=PAIR)) == ["en 1=de 1", "en 2=de 2"]


def test_the_fingerprint_is_of_content_and_names(tmp_path):
    source = write(tmp_path, b"a\n", b"b\n")
    before, stamp = fingerprint(source), open_source(source)[0].stamp
    (tmp_path / "other").mkdir()
    assert fingerprint(write(tmp_path / "other", b"a\n", b"b\n")) == before
    assert fingerprint(Source(str(tmp_path / "t.{de,en}"), template=PAIR)) != before
    (tmp_path / "t.de").write_bytes(b"bc\n")
    assert fingerprint(source) != before and open_source(source)[0].stamp != stamp


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"t\.de: ends after 1 lines, another file of .*t\.\{en,de\} goes on"):
        texts(write(tmp_path, b"a\nb\n", b"c\n"))
    with pytest.raises(DataError, match=r"t\.de:2: not UTF-8"):
        texts(write(tmp_path, b"a\nb\n", b"c\n\xff\n"))
    with pytest.raises(DataError, match=r"t\.fr: no such file"):
        texts(Source(str(tmp_path / "t.{en,fr}"), template=PAIR))
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="files of lines, not of records"):
        texts(Source(str(tmp_path / "{x,x}.jsonl"), template=PAIR))
