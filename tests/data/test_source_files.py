"""A source's files: read once, in bounded memory; what is refused in them, and that everything else is read."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import Source
from data.errors import DataError, NotTextError
from data.sources import document, json_records, lines, text
from data.sources import source as sources
from data.sources.document import Document

ROOT = Path(__file__).parents[2]
in_one_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(path: Path, field: str = "text"):
    (file,) = sources.open_source(Source(str(path), field))
    return file


def read(path: Path, field: str = "text") -> list[str]:
    """Everything in a file: the texts of documents, and the reasons of refusals without the file's name."""
    found = []
    for item in opened(path, field).documents():
        name = str(path)
        found.append(item.text if isinstance(item, Document) else f"refused{item.reason.removeprefix(name)}")
    return found


def file(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def small_records(monkeypatch, size: int) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", size)


# One pass


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", "one\ntwo"),
        ("a.jsonl", '{"text": "a"}\n\n{'),
        ("a.json", '["a", 3]\n\n'),
        ("b.json", '{"text": "a"}\n{"text": "b"}\n'),
        ("a.csv", "text,n\na,1\n\nb\n"),
    ],
)
def test_a_file_is_hashed_while_it_is_read(tmp_path, name, content):
    path = file(tmp_path / name, content)
    expected = hashlib.sha256(content.encode()).hexdigest()
    assert opened(path).digest() == expected
    read_file = opened(path)
    assert list(read_file.documents())  # the pieces of the text are not even asked for
    path.unlink()
    assert read_file.digest() == expected


def test_a_text_of_which_little_was_asked_for_is_hashed_to_its_end(tmp_path):
    content = b"0123456789" * 500_000
    large = opened(file(tmp_path / "a.txt", content))
    pieces = [next(iter(whole.pieces)) for whole in large.documents()]
    assert len(pieces) == 1 and large.sha256 == hashlib.sha256(content).hexdigest()


def test_a_parquet_files_digest_is_that_of_its_bytes(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    parquet = opened(tmp_path / "a.parquet")
    assert len(list(parquet.documents())) == 1
    assert parquet.digest() == hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()


def test_opening_a_source_reads_no_file(tmp_path, monkeypatch):
    for name in ("a.txt", "b.jsonl", "c.parquet", "d.txt.gz", "e.tar"):
        file(tmp_path / name, "x")
    opened_files = []
    monkeypatch.setattr("builtins.open", lambda *arguments, **_: opened_files.append(arguments))
    found = sources.open_source(Source(str(tmp_path)))
    assert [(f.size, f.stamp[0]) for f in found] == [(1, 1)] * 5 and opened_files == []


def test_the_fingerprint_is_of_content_fields_and_formats_and_not_of_places(tmp_path):
    def made(**fields) -> str:
        return sources.fingerprint(Source(**{"path": str(tmp_path / "a"), **fields}))

    for folder, endings in (("a", ".txt .jsonl"), ("b", ".md .NDJSON"), ("c", ".txt .ndjson"), ("d", ".jsonl .txt")):
        (tmp_path / folder).mkdir()
        for place, ending in enumerate(endings.split()):
            file(tmp_path / folder / f"{place}{ending}", f'"{place}"')
    assert made() == made(max_refused=0.5) == made(path=str(tmp_path / "a" / "*"))
    (tmp_path / "moved").mkdir()
    for name in ("0.md", "1.jsonl"):
        file(tmp_path / "moved" / name, f'"{name[0]}"')
    assert made() == made(path=str(tmp_path / "moved"))
    others = [made(field="body"), made(prompt="q"), made(prompt=""), made(path=str(tmp_path / "d"))]
    assert len({made(), *others}) == 5
    found = sources.open_source(Source(str(tmp_path / "a")))
    digests = [(f, hashlib.sha256(Path(f.name).read_bytes()).hexdigest()) for f in found]
    assert sources.combine_fingerprint(Source(str(tmp_path / "a")), digests) == made()


# Plain text


@in_one_folder
@given(mark=st.sampled_from(["", "\ufeff", "\ufeff\ufeff"]), content=st.text(), size=st.integers(3, 9))
def test_a_text_comes_in_pieces_that_join_to_it(tmp_path, mark, content, size):
    path = file(tmp_path / "a.txt", mark + content.replace("\0", "") + "end")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE_LENGTH", size)
        (pieces,) = (list(whole.pieces) for whole in opened(path).documents())
    assert "".join(piece.content for piece in pieces) == path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    assert all(len(piece.content) <= size for piece in pieces)
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)


@in_one_folder
@given(content=st.binary(min_size=1) | st.text().map(str.encode), size=st.integers(1, 9), bad=st.binary(max_size=3))
def test_the_first_byte_that_is_not_utf8_is_the_one_that_python_names(tmp_path, content, size, bad):
    content = (b"x" + content + bad + b"y").replace(b"\0", b"")
    path = file(tmp_path / "a.dat", content)
    try:
        content.decode()
        expected = None
    except UnicodeDecodeError as error:
        expected = f"not UTF-8 at byte {error.start} (0x{content[error.start]:02x})"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE_LENGTH", size)
        if expected is None:
            assert "".join(read(path)) == content.decode()
        else:
            with pytest.raises(NotTextError) as error:
                read(path)
            assert expected in str(error.value)


def test_a_document_is_read_although_nobody_asks_for_the_next_one(tmp_path):
    content = "0123456789" * 500_000
    file(tmp_path / "a.txt", content)
    assert next(sources.read_documents(Source(str(tmp_path / "a.txt")))).text == content


def test_an_error_behind_the_first_piece_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_LENGTH", 4)
    file(tmp_path / "a.txt", "good")
    file(tmp_path / "b.md", "goodgood\0")
    with pytest.raises(DataError, match=r"b.md: a zero byte at 8.*name a glob of others, as .*\*\*/\*.txt"):
        [item.text for item in sources.read_documents(Source(str(tmp_path)))]


@in_one_folder
@given(content=st.text(), size=st.integers(1, 9))
def test_a_records_text_comes_in_pieces_too(content, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "PIECE_LENGTH", size)
        pieces = document.split_text(content, counted=False)
    assert "".join(piece.content for piece in pieces) == content and len(pieces) == max(1, -(-len(content) // size))
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    assert not any(piece.counted for piece in pieces)


# What is refused


def test_reading_goes_on_behind_a_bad_record_of_json(tmp_path):
    content = b'{"text": "a"}\n{"tex\n{"body": "b"}\n{"text": null}\n{"text": ""}\n3\n"\\ud800"\n\xff\n"z"'
    found = read(file(tmp_path / "a.jsonl", content))
    assert [item for item in found if not item.startswith("refused")] == ["a", "", "z"]
    refused = [item.removeprefix("refused:") for item in found if item.startswith("refused")]
    said = ["2: not a JSON", "3: no field", "4: field 'text' is NoneType", "6: no field", "7: field", "8: not a JSON"]
    assert len(refused) == len(said) and all(map(str.startswith, refused, said)), refused
    array = read(file(tmp_path / "a.json", '["a", {"text": 1}, "b"]'))
    assert array == ["a", "refused#1: field 'text' is int, not text", "b"]


def test_reading_goes_on_behind_a_bad_row_of_a_table(tmp_path):
    found = read(file(tmp_path / "a.csv", b'text,n\na,1\nb\n"c"d,2\n"e\n\xff",3\n\n,4\nf,5'))
    assert [item.split(": ")[0] for item in found] == ["a", "refused:3", "refused:4", "refused:6", "", "f"]
    assert "not UTF-8 at byte 0 (0xff)" in found[3]


def test_reading_goes_on_behind_a_bad_row_of_parquet(tmp_path):
    offsets = pyarrow.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]))
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, offsets, pyarrow.py_buffer(b"aa\xffb")])
    pyarrow.parquet.write_table(pyarrow.table({"text": column, "n": ["x", None, ""]}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert found[::2] == ["a", "b"] and "column 'text' is not UTF-8 in row 1" in found[1]
    assert read(tmp_path / "a.parquet", "n") == ["x", "refused#1: column 'n' holds NoneType, not text", ""]


def test_a_quote_that_is_never_closed_is_an_error_for_it_takes_the_rows_behind_it(tmp_path, monkeypatch):
    path = file(tmp_path / "a.csv", 'text,n\na,1\n"b,2\n' + "c,3\n" * 99)
    with pytest.raises(DataError, match=r"a.csv:3: not a row of CSV \(unexpected end of data\); close its quote"):
        read(path)
    small_records(monkeypatch, 40)
    with pytest.raises(DataError, match=r"a.csv:3: a row of more than 64 MiB, or a quote that is not closed"):
        read(path)


# What is too long


@in_one_folder
@given(sizes=st.lists(st.integers(0, 60), max_size=8), ends=st.booleans())
def test_a_json_line_that_is_too_long_is_refused_and_no_other(tmp_path, sizes, ends):
    content = "\n".join(json.dumps("x" * size) for size in sizes) + "\n" * ends
    with pytest.MonkeyPatch.context() as patch:
        small_records(patch, 40)
        patch.setattr(lines, "PART_BYTES", 7)
        found = read(file(tmp_path / "a.jsonl", content + " "))
    bytes_of = [size + 2 + (ends or place < len(sizes)) for place, size in enumerate(sizes, 1)]
    too_long = [size > 40 if ends or place < len(sizes) else size + 1 > 40 for place, size in enumerate(bytes_of, 1)]
    assert ["x" * size for size, long in zip(sizes, too_long, strict=True) if not long] == [
        item for item in found if not item.startswith("refused")
    ]
    assert [place for place, long in enumerate(too_long, 1) if long] == [
        int(item.split(":")[1]) for item in found if item.startswith("refused")
    ]


@in_one_folder
@given(rows=st.lists(st.text('ab",', max_size=30) | st.text('"', max_size=40), min_size=1, max_size=8))
def test_a_table_row_that_is_too_long_is_refused_and_no_other(tmp_path, rows):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([["text", "n"], *([row, "1"] for row in rows)])
    too_long = [len(line) > 40 for line in path.read_bytes().splitlines(keepends=True)[1:]]
    with pytest.MonkeyPatch.context() as patch:
        small_records(patch, 40)
        patch.setattr(lines, "PART_BYTES", 7)
        found = read(path)
    for row, item, place in zip(rows, found, range(len(rows)), strict=True):
        assert item.startswith(f"refused:{place + 2}: a row of more than") if too_long[place] else item == row


def test_a_long_line_in_a_quoted_cell_is_refused_with_its_row_and_no_other(tmp_path, monkeypatch):
    small_records(monkeypatch, 40)
    long = "x, " * 30
    for cell in (f"{long}\nb", f"a\n{long}", f"a\n{long}\nb", f'a"\n{long}" and "\nb', f'{long}"\n"b'):
        with (tmp_path / "a.csv").open("w", newline="") as table:
            csv.writer(table).writerows([["text", "n"], ["first", "1"], [cell, "2"], ["last", "3"]])
        first, refused, last = read(tmp_path / "a.csv")
        assert (first, last) == ("first", "last") and refused.startswith("refused:3: a row of more than")


def test_a_parquet_cell_that_is_too_long_is_refused(tmp_path, monkeypatch):
    small_records(monkeypatch, 40)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 40, "y" * 41, "z"]}), tmp_path / "a.parquet")
    assert [item.split(":")[0] for item in read(tmp_path / "a.parquet")] == ["x" * 40, "refused#1", "z"]


def test_a_large_json_file_is_read_if_it_has_a_record_a_line(tmp_path, monkeypatch):
    """As those of C4 are, which are called c4-train.00000-of-01024.json.gz."""
    monkeypatch.setattr(json_records, "MAX_FILE_BYTES", 1000)
    small_records(monkeypatch, 100)
    texts = [f"text {number}" for number in range(200)]
    assert read(file(tmp_path / "a.json", "\n".join(json.dumps({"text": text}) for text in texts))) == texts
    for content in (json.dumps(texts), json.dumps(texts, indent=1)):
        with pytest.raises(DataError, match=r"a.json: a JSON value of more than .* MiB; write it as JSON lines"):
            read(file(tmp_path / "a.json", content))


MEASURE = """
import sys
from data.config import Source
from data.sources.source import open_source
for file in open_source(Source(sys.argv[1])):
    for item in file.documents():
        print(sum(len(piece.content) for piece in item.pieces) if hasattr(item, "pieces") else item.reason)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
def test_half_a_gigabyte_on_one_line_takes_less_than_half_of_it_in_memory(tmp_path):
    path = file(tmp_path / "a.jsonl", '"first"\n')
    with path.open("r+b") as holes:  # zero bytes that take no place on the disk
        holes.seek(500_000_000)
        holes.write(b'\n"last"\n')
    command = [sys.executable, "-c", MEASURE, str(path)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    first, refused, last, peak = printed.splitlines()
    assert (first, last) == ("5", "4") and "a.jsonl:2: a line of more than 64 MiB; cut the text" in refused
    assert int(peak) < 250_000  # KiB
