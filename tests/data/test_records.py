"""Which fields of a record become a document: text, prompt and response, token ids; in JSON, CSV and parquet."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Source
from data.errors import DataError, MissingFieldError, NotTextError
from data.sources import source as sources
from data.sources.document import Document, Refusal
from data.sources.records import Fields, read_record

PAIRS = [{"question": "2 + 2?", "answer": "4"}, {"question": "", "answer": "?"}]


def pieces(path: Path, ids: bool = False, **fields) -> list[list[tuple]]:
    """(content, whether it counts) of each piece of each document of a file."""
    source = Source(str(path), **fields)
    return [
        [(piece.content, piece.counted) for piece in found.pieces] for found in sources.read_documents(source, ids=ids)
    ]


def refusal(record, **fields) -> Refusal:
    found = read_record(record, Fields(**{"field": "text", **fields}), "a.jsonl:7")
    assert isinstance(found, Refusal) and found.reason.startswith("a.jsonl:7: ") and "\n" not in found.reason
    return found


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(records[0]))
            table.writeheader()
            table.writerows(records)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_prompt_stands_before_its_response_and_does_not_count(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", PAIRS)
    found = pieces(path, field="answer", prompt="question")
    assert found == [[("2 + 2?", False), ("4", True)], [("", False), ("?", True)]]
    assert pieces(path, field="answer") == [[("4", True)], [("?", True)]]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_pair_needs_both_fields(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", PAIRS)
    for fields, missing in (
        ({"field": "answer", "prompt": "ask"}, "ask"),
        ({"field": "say", "prompt": "question"}, "say"),
    ):
        with pytest.raises(DataError, match=rf"no (field|column) '{missing}'; there: 'question', 'answer'; set the"):
            pieces(path, **fields)
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(DataError, match=r"b.txt: a text file has no fields 'question' and 'answer'; write them"):
        pieces(tmp_path / "b.txt", field="answer", prompt="question")


def test_a_bare_value_is_no_pair():
    found = refusal("text", prompt="question")
    assert found.error is NotTextError and "no field 'question' in a str; a record is an object" in found.reason
    assert refusal({}, prompt="question").error is MissingFieldError
    assert "field 'text' is NoneType, not text" in refusal({"question": "x", "text": None}, prompt="question").reason


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_token_ids_are_read_where_they_are_asked_for(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", [{"text": [3, 0, 1 << 40], "q": [7]}, {"text": [], "q": []}])
    found = pieces(path, ids=True)
    assert [[(array.tolist(), counted) for array, counted in document] for document in found] == [
        [([3, 0, 1 << 40], True)],
        [([], True)],
    ]
    assert all(array.dtype == np.int64 for document in found for array, _ in document)
    first = pieces(path, ids=True, prompt="q")[0]
    assert [(array.tolist(), counted) for array, counted in first] == [([7], False), ([3, 0, 1 << 40], True)]
    with pytest.raises(DataError, match=r"'text' (is|holds) list, not text; the tokenizer kind ids reads token ids"):
        pieces(path)


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "uint32", "int64", "uint64"], ids=lambda name: name)
def test_columns_of_every_kind_of_integer_hold_token_ids(tmp_path, kind):
    for column in (pyarrow.list_, pyarrow.large_list, lambda type: pyarrow.list_(type, 2)):
        lists = pyarrow.array([[1, 2], [3, 4]], column(getattr(pyarrow, kind)()))
        pyarrow.parquet.write_table(pyarrow.table({"text": lists}), tmp_path / "a.parquet")
        assert [array.tolist() for ((array, _),) in pieces(tmp_path / "a.parquet", ids=True)] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "value, said",
    [
        ([1, -3], "field 'text' holds -3 at index 1; token ids are whole numbers from 0"),
        ([1.0], "holds 1.0 at index 0"),
        ([5, True], "holds True at index 1"),
        ([5, None], "holds None at index 1"),
        ([[1, 2]], "holds [1, 2] at index 0"),
        (["7"], "holds '7' at index 0"),
        ([1 << 63], "holds 9223372036854775808 at index 0"),
        (np.array([4, -1]), "holds -1 at index 1"),
        (np.array([1 << 63], np.uint64), "holds 9223372036854775808 at index 0"),
        ("7 8", "field 'text' is str, not a list of token ids"),
        (None, "is NoneType, not a list"),
        ([["x" * 100]], "holds"),
    ],
)
def test_what_is_no_token_id_is_named_with_its_place(value, said):
    assert said in refusal({"text": value}, ids=True).reason


@settings(deadline=None)
@given(st.lists(st.integers(-2, 1 << 64) | st.booleans() | st.floats() | st.none(), max_size=4))
def test_a_list_is_read_as_it_is_or_refused(values):
    found = read_record({"text": values}, Fields("text", ids=True), "a")
    good = all(type(value) is int and 0 <= value < 1 << 63 for value in values)
    assert isinstance(found, Document if good else Refusal)
    if good:
        assert found.pieces[0].content.tolist() == values


def test_a_column_of_lists_with_a_gap_or_of_another_type_is_refused_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    for column, said in (
        ([[1], None], "#1: column 'text' holds NoneType, not a list"),
        ([[1], [2, None]], "#1: field 'text' holds None at index 1"),
        ([[1.5]], "#0: field 'text' holds 1.5 at index 0"),
        ([[1], [-1]], "#1: field 'text' holds -1 at index 0"),
        ([[[1]]], r"#0: field 'text' holds \[1\] at index 0"),
        (["a"], "#0: column 'text' holds str, not a list"),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
        with pytest.raises(DataError, match=said):
            pieces(path, ids=True)


def test_texts_and_tables_hold_no_token_ids(tmp_path):
    (tmp_path / "a.txt").write_text("1 2")
    (tmp_path / "a.csv").write_text("text\n1 2\n")
    with pytest.raises(DataError, match=r"a.txt: a text file has no token ids; write them as JSON lines or parquet"):
        pieces(tmp_path / "a.txt", ids=True)
    with pytest.raises(DataError, match=r"a.csv: a table's cells are text, no lists of token ids; write JSON lines"):
        pieces(tmp_path / "a.csv", ids=True)
