"""Preference pairs, from a record to two rows of one batch: what counts, what stays together, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.config import Data, Mixture, Part, Source, Span
from data.config import Tokenizer as Config
from data.errors import DataError
from data.pairs import pair_rows
from data.pipeline import Pipeline, open_pipeline
from data.sources.source import read_documents
from data.store.store import open_store
from data.tokenizers.byte_level import Bytes

RECORDS = [{"q": f"{i}?", "good": f"yes {i}" * (1 + i % 3), "bad": "no" * (i % 4)} for i in range(40)]


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def source_of(path: Path, **fields) -> Source:
    return Source(str(path), **{"field": "good", "prompt": "q", "rejected": "bad", **fields})


def pipeline(tmp_path: Path, source: Source | Mixture, batch: int = 8, length: int = 40, **fields) -> Pipeline:
    config = Data(source, Config("bytes"), length, packing="pairs", **fields)
    return open_pipeline(config, batch, 0, tmp_path / "cache")


def halves(rows) -> list[tuple[str, str]]:
    """(the whole half, the targets that count) of each row, as text. Bytes have no start and no end token."""
    found = []
    for tokens, targets, segments, weights in zip(*(rows[i] for i in (0, 1, 2, 4)), strict=True):
        size = int((segments > 0).sum())
        assert set(segments[:size]) <= {1} and not weights[size:].any()
        text = bytes([*tokens[:1], *targets[:size]] if size else []).decode()
        found.append((text, bytes(targets[weights > 0].astype(np.uint8)).decode()))
    return found


def expected(record: dict) -> list[tuple[str, str]]:
    return [(record["q"] + record[name], record[name]) for name in ("good", "bad")]


def test_a_record_becomes_two_halves_each_behind_the_prompt(tmp_path):
    path = write(tmp_path / "a.jsonl", RECORDS[1:2])
    (document,) = read_documents(source_of(path))
    assert [tuple(piece) for piece in document.pieces] == [
        ("1?", False, False, False), ("yes 1yes 1", True, False, False),
        ("1?", False, False, True), ("no", True, False, False),
    ]  # fmt: skip
    (document,) = read_documents(source_of(path, prompt=None))
    assert [tuple(piece) for piece in document.pieces] == [
        ("yes 1yes 1", True, False, False), ("no", True, False, True),
    ]  # fmt: skip


class Marked(Bytes):
    """Bytes with a start and an end token, where they are given."""

    vocab_size = 258

    def __init__(self, start: int | None, end: int | None):
        self.start_id, self.end_id = start, end

    def to_json(self) -> dict:
        return {"kind": "bytes", "marks": [self.start_id, self.end_id]}


@pytest.mark.parametrize("marks", [(None, None), (256, 257), (257, 257)], ids=["none", "two", "one for both"])
@pytest.mark.parametrize("prompt", ["q", None])
def test_each_half_has_its_own_start_and_end_and_the_store_knows_where_the_second_begins(tmp_path, marks, prompt):
    path = write(tmp_path / "a.jsonl", RECORDS)
    documents = open_store(source_of(path, prompt=prompt), Marked(*marks), tmp_path / "cache").documents
    assert len(documents) == len(documents.halves) == len(RECORDS)
    start, end = ([] if mark is None else [mark] for mark in marks)
    size, numbers = 0, np.arange(len(RECORDS))
    for half, name in enumerate(("good", "bad")):
        bounds = replace(documents, half=half).bounds(numbers)
        for record, first, last in zip(RECORDS, bounds.starts, bounds.stops, strict=True):
            before, response = (record["q"] if prompt else "").encode(), record[name].encode()
            assert documents.tokens[first:last].tolist() == [*start, *before, *response, *end]
            unseen = max(len(before) + len(start), 1)  # the prompt, and the first token whatever it is
            counted = documents.counts(np.arange(first + unseen, last))
            assert counted.all() and len(counted) == max(0, len(response) + len(end) - (not before and not start))
            assert not documents.counts(np.arange(first + 1, min(first + unseen, last))).any()
            size += max(0, len(response) - (not before and not start))
    assert documents.sizes.sum() == size


def test_two_rows_of_a_batch_are_the_two_halves_of_one_pair_each_pair_once_an_epoch(tmp_path):
    data = pipeline(tmp_path, source_of(write(tmp_path / "a.jsonl", RECORDS)))
    pairs = len(data.sources[0].documents)
    assert 30 < pairs < 40 and data.sources[0].packing.rows_per_epoch == 2 * pairs
    found = [half for step in range(pairs) for half in halves(data.rows(step, 0, 8))]
    by_epoch = [found[: 2 * pairs], found[2 * pairs : 4 * pairs]]
    possible = [expected(record) for record in RECORDS]
    for epoch in by_epoch:
        read = [list(pair) for pair in zip(epoch[::2], epoch[1::2], strict=True)]
        assert all(pair in possible for pair in read) and len({pair[0] for pair in read}) == pairs
    assert by_epoch[0] != by_epoch[1] and sorted(by_epoch[0]) == sorted(by_epoch[1])
    assert data.epochs(pairs // 4) == {"source": pytest.approx(1, abs=8 / pairs)}
    for start, stop in ((0, 1), (3, 8), (5, 6)):  # however a batch is shared out
        assert halves(data.rows(5, start, stop)) == halves(data.rows(5, 0, 8))[start:stop]


def test_a_mixture_takes_whole_pairs_of_each_source(tmp_path):
    others = [{"q": f"x{i}", "good": "fine", "bad": "bad"} for i in range(30)]
    parts = (
        Part(source_of(write(tmp_path / "a.jsonl", RECORDS))),
        Part(source_of(write(tmp_path / "b.jsonl", others))),
    )
    data = pipeline(tmp_path, Mixture(parts), batch=6)
    found = [half for step in range(40) for half in halves(data.rows(step, 0, 6))]
    read = [list(pair) for pair in zip(found[::2], found[1::2], strict=True)]
    possible = [expected(record) for record in RECORDS + others]
    assert all(pair in possible for pair in read)
    assert 0.2 < np.mean([pair[0][0].startswith("x") for pair in read]) < 0.8


@pytest.mark.parametrize("split", ["hash", "position"])
def test_a_pair_is_wholly_in_training_or_in_validation(tmp_path, split):
    data = pipeline(tmp_path, source_of(write(tmp_path / "a.jsonl", RECORDS)), split=split)
    training, validation = data.splits.training[0].documents, data.splits.validation[0].documents
    assert len(training) + len(validation) == len(RECORDS) and len(validation)
    scored = list(pair_rows(data.validation[0].documents, 40, 4))
    found = [half for rows in scored for half in halves(rows)]
    assert len(found) % 4 == 0 and set(found[2 * len(validation) :]) <= {("", "")}
    seen = {half for step in range(20) for half in halves(data.rows(step, 0, 8))}
    for chosen, rejected in zip(found[: 2 * len(validation) : 2], found[1 : 2 * len(validation) : 2], strict=True):
        assert [chosen, rejected] in [expected(record) for record in RECORDS] and chosen not in seen


def test_a_validation_text_of_pairs_is_that_of_the_chosen_responses(tmp_path):
    data = pipeline(tmp_path, source_of(write(tmp_path / "a.jsonl", RECORDS)), split="position")
    (text,) = data.validation
    count = len(text.documents)
    bounds = text.documents.bounds(np.arange(count))
    texts = [bytes(text.documents.tokens[a:b].astype(np.uint8)).decode() for a, b in zip(*bounds[:2], strict=True)]
    assert texts == [record["q"] + record["good"] for record in RECORDS[-count:]]
    assert text.bytes == sum(len(record["good"]) for record in RECORDS[-count:])


@pytest.mark.parametrize("place", [0, 38])  # in validation (by position the first), in training
def test_a_half_that_is_longer_than_a_row_is_named_with_the_length_that_would_work(tmp_path, place):
    records = [*RECORDS[:place], {"q": "?", "good": "a", "bad": "b" * 60}, *RECORDS[place:]]
    path = write(tmp_path / "a.jsonl", records)
    spans = {"split": "position", "validation": Span(0.0, 0.2), "train": Span(0.2, 1.0)}
    with pytest.raises(DataError) as error:
        pipeline(tmp_path, source_of(path), **spans)
    assert f"{path}: 1 of " in str(error.value) and str(error.value).endswith(
        f" documents are longer than a row of data.length=40, the first of them record {place + 1} of file 1 with 60 "
        "tokens; data.length=60 holds all, data.too_long=drop leaves them out"
    )
    whole, dropped = (pipeline(tmp_path, source_of(path), **spans, **f) for f in ({"length": 60}, {"too_long": "drop"}))
    counts = [[len(s.documents) for s in (*p.splits.training, *p.splits.validation)] for p in (whole, dropped)]
    assert sum(counts[0]) == sum(counts[1]) + 1 == 41
    read = [half for step in range(20) for half in halves(dropped.rows(step, 0, 8))]
    assert not any("bbb" in half for half, _ in read)


def test_a_template_writes_both_halves(tmp_path):
    template = "Q: {{ q }} A: {% generation %}{{ good }}!{% endgeneration %}"
    path = write(tmp_path / "a.jsonl", RECORDS)
    source = source_of(path, prompt=None, template=template)
    data = pipeline(tmp_path, source, length=60)
    possible = [
        [(f"Q: {record['q']} A: {record[name]}!", f"{record[name]}!") for name in ("good", "bad")] for record in RECORDS
    ]
    found = halves(data.rows(0, 0, 8))
    assert all(list(pair) in possible for pair in zip(found[::2], found[1::2], strict=True))
    with pytest.raises(DataError, match=r"the template reads .* and not 'text'; name its field of the better response"):
        pipeline(tmp_path, replace(source, field="text"), length=60)


WRITTEN = "{{ q }}{% generation %}{{ good }}{% endgeneration %}"


@pytest.mark.parametrize("fields", [{}, {"prompt": None, "template": WRITTEN}], ids=["fields", "template"])
@pytest.mark.parametrize("good", ["", "ab"])
def test_the_end_of_an_empty_response_counts(tmp_path, fields, good):
    path = write(tmp_path / "a.jsonl", [{"q": "why", "good": good, "bad": ""}])

    def read(rejected: str | None) -> tuple[list, list]:
        documents = open_store(source_of(path, rejected=rejected, **fields), Marked(256, 257), tmp_path).documents
        return documents.tokens[:].tolist(), documents.counts(np.arange(len(documents.tokens))).tolist()

    first = [256, *b"why", *good.encode(), 257]
    counted = [False] * 4 + [True] * (len(good) + 1)
    assert read(None) == (first, counted)
    assert read("bad") == ([*first, 256, *b"why", 257], [*counted, *[False] * 4, True])


def test_a_pair_without_its_rejected_response_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "?", "good": "a"}])
    with pytest.raises(
        DataError, match=r"a.jsonl:1: no field 'bad'; there: 'q', 'good'; set the source's field .*reject"
    ):
        pipeline(tmp_path, source_of(path))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="a text file has no fields 'q' and 'good' and 'bad'; write them as JSON lines"):
        pipeline(tmp_path, source_of(tmp_path / "a.txt"))


def test_pairs_and_texts_of_the_same_file_are_two_stores(tmp_path):
    path = write(tmp_path / "a.jsonl", RECORDS)
    sources = [source_of(path), source_of(path, rejected=None), source_of(path, rejected="q", prompt=None)]
    stores = [open_store(source, Bytes(), tmp_path / "cache") for source in sources + sources]
    assert len({store.folder for store in stores}) == 3
    assert [store.documents.halves is None for store in stores] == [False, True, False] * 2
