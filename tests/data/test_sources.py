"""Files to documents, documents to stores: what is read, how it is split, and what is said of what can't be read."""

import glob
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data.config import Source, Span
from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources import source as sources
from data.tokenizers.byte_level import Bytes
from data.tokenizers.tokenizer import build_tokenizer

EMBEDDED = Source("embedded:shakespeare")
ALL = Span(0.0, 1.0)


class Ended(Bytes):
    """Bytes with a token of its own before a document, and one behind it."""

    vocab_size, start_id, end_id = 258, 257, 256

    def to_json(self) -> dict:
        return {"kind": "bytes and an end"}


def texts(path, **fields) -> list[str]:
    return [document.text for document in sources.read_documents(Source(str(path), **fields))]


def written(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_the_embedded_text_is_karpathys():
    """github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt: 1,115,394 characters."""
    (text,) = (document.text for document in sources.read_documents(EMBEDDED))
    assert len(text) == 1_115_394
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.")


def test_files_folders_and_globs(tmp_path):
    written(tmp_path, {"b.txt": "two", "a.txt": "one", "deep/er/c.md": "three", ".hidden": "no"})
    assert texts(tmp_path / "a.txt") == ["one"]
    assert texts(tmp_path) == ["one", "two", "three"]
    assert texts(tmp_path / "*.txt") == ["one", "two"]
    assert texts(tmp_path / "**" / "*.md") == ["three"]


def test_hidden_folders_and_empty_files_of_a_folder_are_not_read(tmp_path):
    place = tmp_path / ".mine"  # above the folder: its own affair
    written(place, {".git/HEAD": "ref", "a/.ipynb_checkpoints/b.txt": "old", "a/b.txt": "new", "__init__.py": ""})
    assert texts(place) == ["new"]
    written(tmp_path / "none", {"a.txt": "", "b.jsonl": ""})
    with pytest.raises(DataError, match="none: every file there is empty"):
        texts(tmp_path / "none")


def test_a_byte_order_mark_is_no_text_and_line_ends_are(tmp_path):
    mark = b"\xef\xbb\xbf"
    written(tmp_path, {"a.txt": mark + b"one\r\n", "b.jsonl": mark + b'{"text": "two"}', "c.txt": mark + b"ab\xff"})
    assert texts(tmp_path / "a.txt") == ["one\r\n"]
    assert texts(tmp_path / "b.jsonl") == ["two"]
    with pytest.raises(DataError, match=r"c.txt: not UTF-8 at byte 5 \(0xff\)"):
        texts(tmp_path / "c.txt")


def test_json_lines_and_parquet(tmp_path):
    written(tmp_path, {"a.jsonl": '{"text": "one\\n", "body": "eins"}\n\n{"text": "zwö", "body": "zwei"}'})
    assert texts(tmp_path / "a.jsonl") == ["one\n", "zwö"]
    assert texts(tmp_path / "a.jsonl", field="body") == ["eins", "zwei"]
    rows = [f"row {i}" for i in range(100)]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows, "n": list(range(100))}), tmp_path / "b.parquet", 7)
    assert texts(tmp_path / "b.parquet") == rows


@pytest.mark.parametrize(
    "name, content, field, parts",
    [
        ("empty.txt", b"", "text", ["empty.txt", "empty"]),
        ("latin.txt", "naïve".encode("latin-1"), "text", ["latin.txt", "byte 2", "0xef", "iconv"]),
        ("a.jsonl", b'{"text": "x"}\n{"tex', "text", ["a.jsonl:2", "not a JSON value"]),
        ("a.jsonl", b'{"body": "x"}', "text", ["a.jsonl:1", "no field 'text'", "'body'", "data.source.field"]),
        ("a.jsonl", b'{"text": 3}', "text", ["a.jsonl:1", "is int, not text"]),
        ("a.jsonl", b'{"text": "\xff"}', "text", ["a.jsonl:1", "UTF-8"]),
        ("a.jsonl", b"[1]", "text", ["a.jsonl:1", "no field", "list"]),
        ("a.jsonl", b'\n{"text": "x\\ud83d"}', "text", ["a.jsonl:2", "'text'", r"\ud83d", "offset 1"]),
        ("a.jsonl", b"[" * 100_000, "text", ["a.jsonl:1", "not a JSON value"]),
        ("a.parquet", b"none", "text", ["a.parquet", "not a parquet file"]),
    ],
)
def test_what_can_not_be_read_is_named_with_its_place(tmp_path, name, content, field, parts):
    written(tmp_path, {name: content})
    with pytest.raises(DataError) as error:
        texts(tmp_path / name, field=field)
    said = str(error.value)
    assert "\n" not in said and all(part in said for part in parts), said


def test_a_column_that_is_not_there_or_not_text(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text'; there: 'body'"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet#1: column 'body' holds NoneType, not text"):
        texts(tmp_path / "a.parquet", field="body")


def test_paths_that_are_not_there(tmp_path):
    written(tmp_path, {"alice.txt": "x", "empty/.keep": ""})
    for path, part in (
        (tmp_path / "alise.txt", f"did you mean {tmp_path / 'alice.txt'}"),
        (tmp_path / "*.csv", "no such file, folder or match"),
        (tmp_path / "empty", "the folder holds no file"),
        ("hub:thing", "unknown kind of source"),
        ("", "path is empty"),
    ):
        with pytest.raises(DataError) as error:
            texts(path)
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("package.json", '{"name": "x"}', "no field 'text'; there: 'name'; set the source's field .data.source.field"),
        ("tsconfig.json", "{ // comment\n}", "not JSON"),
        ("a.jsonl", '{"name": "x"}', ":1: no field 'text'"),
        ("a.csv", "name\nx", "no column 'text'"),
        ("logo.png", b"\x89PNG\r\n\x1a\n", "not UTF-8 at byte 0"),
        ("a.bin", b"\0\0", "a zero byte at 0"),
        ("paper.pdf", "%PDF-1.5", "a PDF"),
        ("dump.jsonl.lz4", b"\x04\x22", "packed by lz4"),
    ],
)
def test_a_folder_with_a_file_that_is_no_text_is_told_a_glob_that_works(tmp_path, name, content, said):
    folder = written(tmp_path / "my [tree]", {"src/a.py": "a", "src/b.py": "b", "c d.md": "c", name: content})
    with pytest.raises(
        DataError, match=rf"{name}.*{said}.*to leave such files out, name a glob of others, as "
    ) as error:
        texts(folder)
    assert texts(str(error.value).rpartition(", as ")[2]) == ["a", "b"]
    with pytest.raises(DataError, match=rf"{name}.*; to leave such files out, name a glob of others$"):
        texts(Path(glob.escape(str(folder)), "*"))
    with pytest.raises(DataError) as error:
        texts(folder / name)
    assert "glob" not in str(error.value)


def test_a_bad_line_is_mended_and_not_left_out(tmp_path):
    written(tmp_path, {"a.txt": "a", "b.jsonl": '{"text": "b"}\n{'})
    with pytest.raises(DataError, match=r"b.jsonl:2: not a JSON value in UTF-8 \([^;]*\)$"):
        texts(tmp_path)


def test_a_link_is_read_as_its_target_where_its_own_name_does_not_say(tmp_path):
    written(tmp_path, {"v3.jsonl": '{"text": "one"}', "blob": '{"text": "two"}'})
    for link, target in {"latest": "v3.jsonl", "hub.jsonl": "blob"}.items():
        (tmp_path / link).symlink_to(target)
    assert texts(tmp_path / "latest") == ["one"] and texts(tmp_path / "hub.jsonl") == ["two"]
    assert texts(tmp_path) == ["two", "one"]


def test_a_file_that_the_system_does_not_give_is_named_and_not_the_cache(tmp_path):
    """/proc/self/mem opens and fails on reading, for root too."""
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"a.jsonl: can't be read \(Input/output error\)"):
        texts(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}\n'])
def test_lines_without_text_make_no_vocabulary(tmp_path, content):
    source = Source(str(written(tmp_path, {"a.jsonl": content}) / "a.jsonl"))
    with pytest.raises(DataError, match=r"a.jsonl: no text"):
        build_tokenizer(Config("characters"), [source])
