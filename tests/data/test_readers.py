"""What is read from JSON, CSV and parquet, as Python's json and csv and pyarrow write them; and what is refused."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import Source
from data.errors import DataError
from data.sources import source as sources

TEXTS = ["one", "zwö\n", '"three", [3]', "{4}", "", " \n", "a\r\nb\rc", "x" * 200_000]
RECORDS = [{"id": i, "body": text, "meta": {"body": i}} for i, text in enumerate(TEXTS)]
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\n", '\r\n"', ",", "\t"]
)


def documents(path: Path, field: str = "text"):
    return list(sources.read_documents(Source(str(path), field)))


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.text for document in documents(path, field)]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, field: str = "text") -> str:
    with pytest.raises(DataError) as error:
        texts(path, field)
    assert "\n" not in str(error.value)
    return str(error.value)


def table(path: Path, rows: list[list[str]], dialect: str = "excel") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, dialect).writerows(rows)
    return path


def lines(records) -> str:
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "jsonlines", "JSONL", "NDJson", "json", "JSON"])
def test_records_a_line_are_read_whatever_the_ending(tmp_path, ending):
    assert texts(written(tmp_path / f"a.{ending}", lines(RECORDS)), "body") == TEXTS
    crlf = written(tmp_path / f"b.{ending}", lines(RECORDS).replace("\n", "\r\n\r\n") + "\r\n")
    assert texts(crlf, "body") == TEXTS


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_is_an_array_of_records_or_of_texts_or_one_record(tmp_path, indent):
    path = tmp_path / "a.json"
    for value, expected in ((RECORDS, TEXTS), (TEXTS, TEXTS), (RECORDS[1], TEXTS[1:2]), ([], []), ("one", ["one"])):
        for mark in ("", "\ufeff", "\n "):
            assert texts(written(path, mark + json.dumps(value, indent=indent)), "body") == expected
    assert [document.origin for document in documents(written(path, '["a", "b"]'))] == [f"{path}#0", f"{path}#1"]
    assert texts(written(tmp_path / "strings.jsonl", '"a"\n{"text": "b"}')) == ["a", "b"]


@pytest.mark.parametrize(
    "ending, dialect", [("csv", "excel"), ("CSV", "excel"), ("tsv", "excel-tab"), ("Tsv", "excel-tab")]
)
def test_a_row_of_a_table_is_a_document(tmp_path, ending, dialect):
    rows = [["id", "body"], *([str(i), text] for i, text in enumerate(TEXTS))]
    path = table(tmp_path / f"a.{ending}", rows, dialect)
    assert texts(path, "body") == TEXTS
    assert texts(written(path, b"\xef\xbb\xbf" + path.read_bytes()), "id") == [str(i) for i in range(len(TEXTS))]
    assert [document.origin for document in documents(path, "body")][:4] == [f"{path}:{line}" for line in (2, 3, 5, 6)]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(WORDS, WORDS), max_size=4))
def test_any_text_that_csv_writes_is_read_again(tmp_path, rows):
    path = table(tmp_path / "a.csv", [["text", "note"], *map(list, rows)])
    assert texts(path) == [text for text, _ in rows] and texts(path, "note") == [note for _, note in rows]


@pytest.mark.parametrize(
    "name, content, parts",
    [
        ("a.json", '[{"text": "x"}, {"body": "y"}]', ["a.json#1: no field 'text'", "there: 'body'"]),
        ("a.json", '{"body": "y", "name": 1}', ["a.json: no field 'text'", "there: 'body', 'name'"]),
        ("a.json", '["x", 3]', ["a.json#1", "no field 'text' in a int"]),
        ("a.json", '[{"text": "x"}, {"text": [1]}]', ["a.json#1", "field 'text' is list, not text"]),
        ("a.json", '[{"text": "x"},\n {"text": ', ["a.json: not JSON", "line 2 column"]),
        ("a.json", '{"text": "x"}\n{"text": 1}', ["a.json:2", "is int, not text"]),
        ("a.json", '{"text": "x"}\n{"text"', ["a.json:2", "not a JSON value"]),
        ("a.json", '["a", "\\udc00"]', ["a.json#1", r"\udc00", "offset 0"]),
        ("a.json", "[" * 100_000, ["a.json: not JSON"]),
        ("a.json", b'["\xff"]', ["a.json: not UTF-8 at byte 2"]),
        ("a.json", '{"text": "x", "text": "y"}', ["a.json", "field 'text' twice in one object"]),
        ("a.jsonl", '\n{"text": "x", "n": 1, "n": 2, "text": "y"}', ["a.jsonl:2", "field 'text' twice in one object"]),
        ("a.jsonl", '{"text": "x"}\nnull', ["a.jsonl:2", "no field 'text' in a NoneType"]),
        ("a.csv", "body,n\nx,1\n", ["a.csv: no column 'text'; there: 'body', 'n'"]),
        ("a.csv", "\n\n", ["a.csv: no column 'text'; there: none"]),
        ("a.csv", "text,n,text\nx,1,y\n", ["a.csv: 2 columns are named 'text'"]),
        ("a.csv", "text,n\nx,1\n\ny\n", ["a.csv:4: the row has 1 cells and the header 2"]),
        ("a.csv", 'text,n\nx,1\n"y\n,2\nz,3\n', ["a.csv:3: not a row of CSV", "unexpected end of data"]),
        ("a.csv", 'text,n\n"x"y,1\n', ["a.csv:2: not a row of CSV"]),
        ("a.csv", b'text,n\nx,1\n"y\n\xff",2', ["a.csv:4: not UTF-8 at byte 0"]),
        ("a.tsv", "text,n\nx,1\n", ["a.tsv: no column 'text'; there: 'text,n'"]),
    ],
)
def test_what_can_not_be_read_is_named_with_its_place(tmp_path, name, content, parts):
    said = refused(written(tmp_path / name, content))
    assert all(part in said for part in parts), said


def test_a_key_that_is_not_read_may_stand_twice(tmp_path):
    assert texts(written(tmp_path / "a.jsonl", '{"n": 1, "n": 2, "text": "x"}')) == ["x"]


def test_marks_of_byte_order_in_the_middle_of_joined_files(tmp_path):
    """`cat a.jsonl b.jsonl` of files that begin with one."""
    assert texts(written(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b\ufeff"}\n')) == ["a", "b\ufeff"]


def test_columns_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text.en": ["A"], "text": ["B"], "in": [{"text": "C"}]}), path)
    assert (texts(path), texts(path, "text.en")) == (["B"], ["A"])
    assert "no column 'in.text'" in refused(path, "in.text") and "column 'in' holds dict" in refused(path, "in")
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["A"])] * 2, ["text", "text"]), path)
    assert "2 columns are named 'text'" in refused(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(["a", "b", "a"]).dictionary_encode()}), path)
    assert texts(path) == ["a", "b", "a"]


def test_parquet_that_is_damaged_or_not_utf8(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"row {i}" for i in range(1000)]}), path)
    content = path.read_bytes()
    damaged = content[:4] + bytes(byte ^ 0x5A for byte in content[4:400]) + content[400:]
    assert "a.parquet: not a parquet file that can be read" in refused(written(path, damaged))
    offsets, text = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")
    strange = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, text])
    pyarrow.parquet.write_table(pyarrow.table({"text": strange}), path)
    assert "column 'text' is not UTF-8 in row 0" in refused(path)
