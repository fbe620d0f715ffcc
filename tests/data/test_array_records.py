"""ArrayRecord files that its own library writes come back record by record; damaged ones are refused in one line."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Source
from data.errors import DataError, MissingFieldError
from data.sources import array_records
from data.sources.document import Document, Refusal
from data.sources.source import open_source, read_documents

TEXTS = [f"Canto {number}\r\n" + "Nel mezzo del cammin di nostra vita\n" * (number % 30) for number in range(500)]


def write(path: Path, records: list, options: str = "group_size:1") -> Path:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record.encode() if isinstance(record, str) else record)
    writer.close()
    return path


def documents(path: Path, ids: bool = False, **fields) -> list[Document | Refusal]:
    return [document for file in open_source(Source(str(path), **fields), ids) for document in file.documents()]


def texts(path: Path, **fields) -> list[str]:
    return [document.text for document in documents(path, **fields)]


@pytest.mark.parametrize("name", ["a.array_record", "a.arrayrecord", "A.ARRAY_RECORD"])
@pytest.mark.parametrize("options", ["group_size:1", "group_size:100", "uncompressed", ""])
def test_each_record_is_a_document(tmp_path, name, options):
    path = write(tmp_path / name, TEXTS, options)
    assert texts(path) == [document.text for document in read_documents(Source(str(path)))] == TEXTS
    assert documents(path)[7].origin == f"{path}#7"


@settings(max_examples=30, deadline=None)
@given(
    records=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=20),
    batch_bytes=st.integers(1, 500_000),
)
def test_texts_come_back_whatever_they_are_and_however_many_are_read_at_once(records, batch_bytes):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_records, "BATCH_BYTES", batch_bytes)
        path = write(Path(folder) / "a.array_record", ["first", *records])
        assert texts(path) == ["first", *records]


def test_records_are_json_objects_where_the_first_one_is(tmp_path):
    path = write(tmp_path / "a.array_record", [json.dumps({"text": text, "n": 1}) for text in TEXTS])
    assert texts(path) == TEXTS
    path = write(tmp_path / "b.array_record", [json.dumps({"text": "a"}), "no JSON", json.dumps({"body": "b"})])
    first, *refusals = documents(path)
    assert first.text == "a"
    assert "#1: not a JSON value" in refusals[0].reason
    assert "#2: no field 'text'; there: 'body'" in refusals[1].reason


@pytest.mark.parametrize("first", ["{curly braces}", '"Quoted"', "[1]", '{"text": "a"} and more'])
def test_a_text_that_only_begins_like_json_is_a_text(tmp_path, first):
    records = [first, json.dumps({"text": "a"})]
    assert texts(write(tmp_path / "a.array_record", records)) == records


def test_prompts_and_token_ids_come_from_json(tmp_path):
    path = write(tmp_path / "a.array_record", [json.dumps({"text": "b", "prompt": "a", "tokens": [3, 1]}), "plain"])
    document, refusal = documents(path, prompt="prompt")
    assert [(piece.content, piece.counted) for piece in document.pieces] == [("a", False), ("b", True)]
    assert isinstance(refusal, Refusal)
    document, refusal = documents(path, ids=True, field="tokens")
    assert document.pieces[0].content.tolist() == [3, 1] and isinstance(refusal, Refusal)


def test_a_missing_field_says_how_to_name_another(tmp_path):
    path = write(tmp_path / "a.array_record", [json.dumps({"body": "a"})])
    assert documents(path)[0].error is MissingFieldError
    with pytest.raises(DataError, match=r"#0: no field 'text'; there: 'body'; set the source's field"):
        list(read_documents(Source(str(path))))


@pytest.mark.parametrize(("record", "said"), [("déjà".encode("latin-1"), "not UTF-8 at byte 1"), (b"a\0", "zero byte")])
def test_a_record_that_is_no_text_is_a_refusal(tmp_path, record, said):
    path = write(tmp_path / "a.array_record", ["a", record, "b"])
    first, refusal, last = documents(path)
    assert (first.text, last.text) == ("a", "b")
    assert refusal.reason.startswith(f"{path}#1: ") and said in refusal.reason and "a record is" in refusal.reason


def test_the_digest_is_of_the_records_and_not_of_how_they_are_packed(tmp_path):
    path = write(tmp_path / "a.array_record", TEXTS)
    [file], [again] = open_source(Source(str(path))), open_source(Source(str(path)))
    list(file.documents())
    digest, stamp = file.digest(), file.stamp
    assert again.digest() == digest
    [packed] = open_source(Source(str(write(path, TEXTS, "group_size:7,uncompressed"))))
    assert packed.digest() == digest and packed.stamp != stamp
    for others in (TEXTS[:-1], ["".join(TEXTS)], [*TEXTS[1:], TEXTS[0]]):
        [file] = open_source(Source(str(write(path, others))))
        assert file.digest() != digest


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_one_record_is_lost_where_one_byte_of_it_was_changed(tmp_path):
    path = write(tmp_path / "a.array_record", TEXTS, "group_size:1,uncompressed")
    content = path.read_bytes()
    index = content.index(TEXTS[250].encode())
    path.write_bytes(content[:index] + b"?" + content[index + 1 :])
    read = documents(path)
    assert [number for number, document in enumerate(read) if isinstance(document, Refusal)] == [250]
    assert re.fullmatch(rf"{path}#250: a damaged record \(.*hash mismatch.*\); write the file again", read[250].reason)
    assert [document.text for document in read if isinstance(document, Document)] == TEXTS[:250] + TEXTS[251:]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_bit_was_changed_no_other_text_comes_back(data):
    """Some bits stand for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.array_record", TEXTS[:50])
        content = bytearray(path.read_bytes())
        used = [index for index, byte in enumerate(content) if byte]  # most of the file is filled up with zeros
        content[data.draw(st.sampled_from(used))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            read = documents(path)
        except DataError as error:
            assert "no ArrayRecord file, or its end is damaged or cut off" in str(error)
            return
        assert len(read) == 50
        assert all(isinstance(d, Refusal) or d.text == text for d, text in zip(read, TEXTS[:50], strict=True))


@pytest.mark.parametrize("kept", [1, 100, 70_000, -1])
def test_a_file_that_was_cut_off_is_an_error(tmp_path, kept):
    """The library counts no records in it, and says nothing."""
    path = write(tmp_path / "a.array_record", TEXTS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"^{path}: no ArrayRecord file, or its end is damaged or cut off"):
        documents(path)


def test_a_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "a.array_record").write_text("To be, or not to be.\n" * 9999)
    with pytest.raises(DataError, match="no ArrayRecord file"):
        documents(tmp_path / "a.array_record")


def test_a_file_that_goes_away_is_an_error(tmp_path):
    path = write(tmp_path / "a.array_record", TEXTS)
    [file] = open_source(Source(str(path)))
    path.unlink()
    with pytest.raises(DataError, match=f"^{path}: "):
        list(file.documents())


def test_a_file_under_another_name_says_how_to_read_it(tmp_path):
    """Such are the shards of TFDS's data sets, whose records are no text."""
    path = write(tmp_path / "novels-train.array_record-00000-of-00001", TEXTS)
    with pytest.raises(DataError, match=r"end in \.array_record.*tfds:NAME/SPLIT"):
        list(read_documents(Source(str(path))))
