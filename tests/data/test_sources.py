"""Files to documents, documents to stores: what is read, how it is split, and what is said of what can't be read."""

import glob
import itertools
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data import store
from data.config import Source, Span
from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources import source as sources
from data.store import open_store
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
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
        ("dump.jsonl.gz", b"\x1f\x8b", "packed by gzip"),
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
    for use in (texts, lambda path: open_store(Source(str(path)), Bytes(), ALL, tmp_path / "cache")):
        with pytest.raises(DataError, match=r"a.jsonl: can't be read \(Input/output error\)"):
            use(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}\n'])
def test_lines_without_text_make_no_vocabulary_and_no_store(tmp_path, content):
    source = Source(str(written(tmp_path, {"a.jsonl": content}) / "a.jsonl"))
    with pytest.raises(DataError, match=r"a.jsonl: no text"):
        build_tokenizer(Config("characters"), source)
    with pytest.raises(DataError, match=r"a.jsonl: no text"):
        open_store(source, Bytes(), ALL, tmp_path / "cache")


# The store


def test_the_split_is_nanogpts(tmp_path):
    """data/shakespeare_char/prepare.py prints: train has 1,003,854 tokens, val has 111,540 tokens."""
    (text,) = (document.text for document in sources.read_documents(EMBEDDED))
    tokenizer = build_tokenizer(Config("characters"), EMBEDDED)
    train = open_store(EMBEDDED, tokenizer, Span(0.0, 0.9), tmp_path)
    validation = open_store(EMBEDDED, tokenizer, Span(0.9, 1.0), tmp_path)
    assert (train.manifest["tokens"], validation.manifest["tokens"]) == (1_003_854, 111_540)
    assert tokenizer.decode(train.documents.tokens.tolist()) == text[: int(len(text) * 0.9)]
    assert tokenizer.decode(validation.documents.tokens.tolist()) == text[int(len(text) * 0.9) :]
    assert train.documents.bytes + 1 == train.manifest["characters"] == train.manifest["tokens"]


def test_documents_keep_their_borders_and_end_ids(tmp_path):
    given = ["one", "", "zwölf", "x" * 10]
    path = written(tmp_path, {"a.jsonl": "\n".join(json.dumps({"text": text}) for text in given)}) / "a.jsonl"
    made = open_store(Source(str(path)), Ended(), ALL, tmp_path / "cache").documents
    cut = [made.tokens[a:b].tolist() for a, b in made.bounds]
    assert cut == [[257, *text.encode(), 256] for text in given]
    assert made.bytes == len("".join(given).encode())
    assert made.tokens.dtype == np.uint16


def test_large_vocabularies_take_four_bytes(tmp_path):
    class Wide(Bytes):
        vocab_size, start_id, end_id = 100_000, 99_998, 99_999

    written(tmp_path, {"a.txt": "x"})
    made = open_store(Source(str(tmp_path / "a.txt")), Wide(), ALL, tmp_path / "cache").documents
    assert made.tokens.tolist() == [99_998, 120, 99_999] and made.tokens.dtype == np.uint32


@pytest.mark.parametrize("parts", [[0.0, 0.9, 1.0], [0.0, 0.25, 0.3, 1.0]])
def test_spans_share_out_every_character_once(tmp_path, parts):
    given = ["0123456789", "abcdefg", "ü", "VWXYZ" * 3]
    path = written(tmp_path, {"a.jsonl": "\n".join(json.dumps({"text": text}) for text in given)}) / "a.jsonl"
    spans = [Span(a, b) for a, b in itertools.pairwise(parts)]
    found = ["".join(part.text for part in store.documents_in_span(Source(str(path)), span)) for span in spans]
    assert "".join(found) == "".join(given)
    total = len("".join(given))
    assert [len(f) for f in found] == [int(total * s.stop) - int(total * s.start) for s in spans]


def test_an_empty_span_is_refused_and_leaves_nothing(tmp_path):
    written(tmp_path, {"a.txt": "short"})
    with pytest.raises(DataError, match=r"no text between 0.9 and 0.95 of it"):
        open_store(Source(str(tmp_path / "a.txt")), Bytes(), Span(0.9, 0.95), tmp_path / "cache")
    assert list((tmp_path / "cache" / "stores").iterdir()) == []


def test_a_store_is_made_once_and_anew_when_anything_changes(tmp_path):
    path = written(tmp_path, {"a.txt": "some text"}) / "a.txt"
    said: list[str] = []

    def tokens(tokenizer=None, span=ALL, field="text"):
        given = Source(str(path), field)
        return open_store(given, tokenizer or Bytes(), span, tmp_path / "cache", said.append).documents.tokens.tolist()

    first = tokens()
    assert tokens() == first and len(said) == 1
    assert len(tokens(Ended())) == len(first) + 2 and len(said) == 2
    assert tokens(span=Span(0.0, 0.5)) == first[:4] and len(said) == 3
    path.write_text("some more")
    assert tokens() == list(b"some more") and len(said) == 4
    path.write_text("some text")
    assert tokens() == first and len(said) == 4


CONTENTS = {  # how one content is read by the ending of its name
    '{"text": "one"}': {
        ".txt": '{"text": "one"}',
        ".jsonl": "one",
        ".json": "one",
        ".JSONL": "one",
        ".md": '{"text": "one"}',
    },
    "text\n1\t2\n": {".txt": "text\n1\t2\n", ".csv": "1\t2"},
    "text\tn\n1\t2\n": {".tsv": "1", ".TXT": "text\tn\n1\t2\n"},
}


def test_one_content_read_in_several_ways_makes_several_stores(tmp_path):
    for content, expected in CONTENTS.items():
        for ending, text in expected.items():
            source = Source(str(written(tmp_path, {f"a{ending}": content}) / f"a{ending}"))
            made = open_store(source, Bytes(), ALL, tmp_path / "cache")
            assert bytes(made.documents.tokens.tolist()).decode() == text, ending


def test_a_text_that_changes_while_it_is_read_leaves_no_store(tmp_path):
    """Else it would be found later under the fingerprint of what it was before."""
    path = written(tmp_path, {"a.txt": "some text"}) / "a.txt"

    class Slow(Bytes):
        def encode(self, text: str) -> list[int]:
            path.write_text("another text")
            return super().encode(text)

    with pytest.raises(DataError, match=r"a.txt: changed while it was read; start again"):
        open_store(Source(str(path)), Slow(), ALL, tmp_path / "cache")
    assert list((tmp_path / "cache" / "stores").iterdir()) == []


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    written(tmp_path, {"a.txt": "text", "cache": "a file"})
    with pytest.raises(DataError, match=r"cache: can't write the token cache .*SKALD_CACHE"):
        open_store(Source(str(tmp_path / "a.txt")), Bytes(), ALL, tmp_path / "cache")


def test_an_error_in_the_middle_leaves_no_store(tmp_path):
    path = written(tmp_path, {"a.jsonl": '{"text": "fine"}\n{"text": "na\u00efve"}'}) / "a.jsonl"
    for span, place in ((ALL, "a.jsonl:2: .*offset 2"), (Span(0.6, 1.0), "a.jsonl:2 from offset 1: .*offset 1")):
        with pytest.raises(DataError, match=f"{place} is not among"):
            open_store(Source(str(path)), Characters("finea v"), span, tmp_path / "cache")
    assert list((tmp_path / "cache" / "stores").iterdir()) == []


def make_one(path, cache, barrier, results):
    barrier.wait()
    made = open_store(Source(path), Bytes(), ALL, Path(cache)).documents
    results.put((os.getpid(), int(made.tokens.astype(np.int64).sum()), len(made.tokens)))


@pytest.mark.timeout(120)
def test_processes_that_make_one_store_at_once_get_the_same(tmp_path):
    text = "To be, or not to be: that is the question.\n" * 50_000
    path = written(tmp_path, {"a.txt": text}) / "a.txt"
    processes = multiprocessing.get_context("spawn")
    barrier, results = processes.Barrier(4), processes.Queue()
    arguments = (str(path), str(tmp_path / "cache"), barrier, results)
    workers = [processes.Process(target=make_one, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join(timeout=20)
    expected = (sum(text.encode()), len(text))
    assert len({pid for pid, *_ in found}) == 4 and {tuple(rest) for _, *rest in found} == {expected}
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1
