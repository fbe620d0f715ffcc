"""The index of training tokens against enumeration, and which text is in it."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Data, Mixture, Part, Source, Tokenizer
from data.documents import Documents
from data.errors import DataError
from data.index import build, part
from data.index.build import index_folder
from data.index.training_index import SourceIndex, TrainingIndex
from data.plans import SavedPlans
from data.splits import Split, open_splits
from data.store.cache import folder_bytes, list_leftovers, list_stores
from data.tokenizers.byte_level import Bytes

SHAKESPEARE = (Path(__file__).parents[2] / "data/corpora/tinyshakespeare.txt").read_text()


class Corpus:
    """What a split needs of a store, for documents of ids."""

    def __init__(self, folder: Path, documents: list[list[int]], dtype: str = "uint16"):
        offsets = np.cumsum([0, *map(len, documents)])
        tokens = np.array([token for document in documents for token in document], dtype)
        self.folder, self.lists = folder, documents
        self.documents = Documents(tokens, offsets, np.diff(offsets), False)
        self.manifest = {"source_path": "corpus.jsonl", "files": ["corpus.jsonl"], "records_by_file": [len(documents)]}
        self.plans = SavedPlans(folder / "plans", ["all"])

    def origin(self, document: int):
        return type("Origin", (), {"file": 0, "record": document})

    def index(self, part_tokens: int = build.PART_TOKENS) -> TrainingIndex:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "index", ignore_errors=True)
        return TrainingIndex([SourceIndex(Split("own", self, self.documents, self.plans), part_tokens=part_tokens)])

    def count(self, span: list[int]) -> int:
        return sum(d[i : i + len(span)] == span for d in self.lists for i in range(len(d) - len(span) + 1))

    def next_tokens(self, span: list[int]) -> list[int]:
        n = len(span)
        return sorted({d[i + n] for d in self.lists for i in range(len(d) - n) if d[i : i + n] == span})


@st.composite
def corpora_and_texts(draw):
    """Documents over a small vocabulary, and a text with ids that they do not have; near both ends of uint16."""
    first = draw(st.sampled_from([0, 65_532]))
    ids = st.integers(first, first + draw(st.integers(0, 3)))
    documents = draw(st.lists(st.lists(ids, max_size=25), min_size=1, max_size=6).filter(any))
    return documents, draw(st.lists(st.integers(first, first + 4), min_size=1, max_size=10))


@settings(max_examples=40, deadline=None)
@given(
    corpora_and_texts(),
    st.sampled_from([3, 8, 17, 1000]),
    st.sampled_from([1, 1 << 14]),
    st.sampled_from(["uint16", "uint32"]),
)
def test_every_span_is_found_as_enumeration_finds_it(tmp_path_factory, drawn, part_tokens, batch, dtype):
    """In parts of any size, most of which cut documents; the vocabulary may need 65,536 ids and one for borders."""
    documents, text = drawn
    corpus = Corpus(tmp_path_factory.mktemp("corpus"), documents, dtype)
    index = corpus.index(part_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "BATCH", batch)
        copies = index.copies(text)
        for start in range(len(text)):
            spans = [text[start:stop] for stop in range(start + 1, len(text) + 1)]
            counts = [corpus.count(span) for span in spans]
            assert counts == [index.count(span) for span in spans]
            assert copies.lengths[start] == np.count_nonzero(counts)
            if counts[0]:
                found = copies.span(start)
                document = corpus.lists[found.document]
                assert document[found.offset : found.offset + found.stop - start] == text[start : found.stop]
            for span in spans:
                assert index.next_tokens(span).tolist() == corpus.next_tokens(span)


@pytest.mark.parametrize("last", [65_533, 65_534, 65_535])
def test_the_greatest_ids_of_two_bytes_are_told_from_borders_and_ends(tmp_path, last):
    index = Corpus(tmp_path, [[1, last, last], [last, 0]]).index()
    assert index.copies([1, last]).lengths.tolist() == [2, 1]
    assert index.copies([last, last, 0, 70_000]).lengths.tolist() == [2, 2, 1, 0]
    assert index.count([last]) == 3 and index.next_tokens([last]).tolist() == [0, last]


def test_many_texts_at_once_are_as_each_alone(tmp_path):
    random = np.random.default_rng(0)
    index = Corpus(tmp_path, [random.integers(0, 5, 300).tolist() for _ in range(4)]).index(500)
    texts = [random.integers(0, 5, length).tolist() for length in (40, 0, 1, 200)]
    for text, together in zip(texts, index.copies_of(texts), strict=True):
        alone = index.copies(text)
        assert together.lengths.tolist() == alone.lengths.tolist()
    assert index.copies_of([]) == []


def test_shares_of_new_ngrams_are_those_of_a_set_of_ngrams(tmp_path):
    """Shakespeare by characters; a text with a line of it, and new words."""
    train = list(SHAKESPEARE[:60_000].encode())
    text = list((SHAKESPEARE[50_000:50_080] + " The quick brown fox, " + SHAKESPEARE[900_000:900_400]).encode())
    copies = Corpus(tmp_path, [train]).index(25_000).copies(text)
    for n in range(1, 17):
        known = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
        ngrams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        assert copies.new_ngrams(n) == pytest.approx(sum(ngram not in known for ngram in ngrams) / len(ngrams))
    assert (copies.longest.start, copies.longest.title) == (0, "corpus.jsonl")
    assert copies.longest.stop >= 80 and copies.longest.offset == 50_000
    assert np.isnan(copies.new_ngrams(len(text) + 1))


def test_spans_are_marked_without_those_inside_others(tmp_path):
    index = Corpus(tmp_path, [[1, 2, 3, 4, 5], [4, 5, 6, 7], [9]]).index()
    copies = index.copies([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert [(span.start, span.stop, span.title) for span in copies.spans(2)] == [
        (0, 5, "corpus.jsonl, record 0"),
        (3, 7, "corpus.jsonl, record 1"),
    ]
    assert copies.covered(2).tolist() == [5, 5, 5, 5, 5, 4, 4, 0, 0]
    assert len(copies.spans(1)) == 3 and copies.spans(6) == []
    assert index.copies([0, 10]).longest is None


def test_a_span_longer_than_a_part_is_found_up_to_the_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "OVERLAP", 8)
    index = Corpus(tmp_path, [list(range(100))]).index(10)
    assert len(index.parts) == 10
    assert index.copies(list(range(100))).lengths[:3].tolist() == [18, 17, 16]  # the part's own ten, and eight behind
    assert all(index.count(list(range(start, start + 9))) == 1 for start in range(92))


# Which text is in it


class Pair:
    """A training source with a validation part of its own, and an index."""

    def __init__(self, folder: Path, config: Data):
        self.splits = open_splits(config, Bytes(), folder / "cache", lambda _: None)
        self.index = TrainingIndex([SourceIndex(split) for split in self.splits.training])


def write_lines(file: Path, texts: list[str]) -> Source:
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return Source(str(file))


def ids(text: str) -> list[int]:
    return Bytes().encode(text)


@pytest.mark.parametrize("split", ["hash", "position"])
def test_only_the_training_split_is_in_it(tmp_path, split):
    texts = [f"Number {number} is {number * 7919}." for number in range(60)]
    pair = Pair(tmp_path, Data(write_lines(tmp_path / "a.jsonl", texts), Tokenizer("bytes"), 16, split=split))
    held = pair.splits.validation[0].documents
    bounds = held.bounds(np.arange(len(held)))
    for start, stop in list(zip(bounds.starts, bounds.stops, strict=True))[1:]:  # the first may be cut
        text = held.tokens[start:stop].tolist()
        assert not pair.index.count(text) and pair.index.copies(text).longest.stop < len(text)
    found = [text for text in texts if pair.index.count(ids(text))]
    assert len(found) + len(held) in (60, 61) and 40 < len(found) < 60
    crossing = ids(texts[0])[-4:] + ids(texts[1])[:4]
    assert not pair.index.count(crossing)


def test_documents_that_are_in_validation_too_may_be_left_out(tmp_path):
    train, held = write_lines(tmp_path / "a.jsonl", ["one", "two", "three"]), write_lines(tmp_path / "b.jsonl", ["two"])
    config = Data(train, Tokenizer("bytes"), 4, validation_source=held)
    assert Pair(tmp_path, config).index.count(ids("two")) == 1
    without = Data(train, Tokenizer("bytes"), 4, validation_source=held, drop_duplicates=True)
    assert Pair(tmp_path, without).index.count(ids("two")) == 0


def test_halves_of_a_preference_pair_are_texts_of_their_own(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"good": "yes {n}", "bad": "no {n}"}}' for n in range(40)))
    source = Source(str(tmp_path / "a.jsonl"), "good", rejected="bad")
    pair = Pair(tmp_path, Data(source, Tokenizer("bytes"), 16, packing="pairs"))
    found = [n for n in range(40) if pair.index.count(ids(f"yes {n}"))]
    assert found and all(pair.index.count(ids(f"no {n}")) for n in found)
    assert not any(pair.index.count(ids(f"yes {n}no")) for n in range(40))


def test_sources_of_a_mixture_are_asked_together_and_the_same_documents_once(tmp_path):
    first, second = (write_lines(tmp_path / f"{n}.jsonl", [f"{n} said {i}!" for i in range(30)]) for n in ("Ada", "Bo"))
    parts = (Part(first, name="a"), Part(second, name="b"), Part(second, name="again"))
    pair = Pair(tmp_path, Data(Mixture(parts), Tokenizer("bytes"), 16))
    assert {span.source for span in pair.index.copies(ids("Ada said / Bo said")).spans(6)} == {"a", "b"}
    (once,) = [pair.index.count(ids("Bo said"))]
    assert once == len(pair.splits.training[1].documents)
    seen = pair.index.times_seen(ids("Bo said"), {"a": 9.0, "b": 0.5, "again": 1.0})
    assert seen == pytest.approx(1.5 * once)


# On disk


def test_it_is_made_once_and_lies_with_its_store(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text(SHAKESPEARE[:300_000])
    config = Data(Source(str(source)), Tokenizer("bytes"), 16)
    lines = []
    splits = open_splits(config, Bytes(), tmp_path / "cache", lambda _: None)
    first = SourceIndex(splits.training[0], lines.append)
    (entry,) = list_stores(tmp_path / "cache" / "stores")
    size = folder_bytes(first.folder)
    assert entry.folder in first.folder.parents and entry.bytes == folder_bytes(entry.folder) > size
    assert size < 6.1 * len(first.parts[0].suffixes)  # two bytes of text and four of the array
    made = sorted((file.name, file.stat().st_mtime_ns) for file in first.folder.iterdir())
    SourceIndex(splits.training[0], lines.append)
    assert sorted((file.name, file.stat().st_mtime_ns) for file in first.folder.iterdir()) == made
    (line,) = lines
    assert f"{len(first.parts[0].suffixes):,} tokens of training indexed" in line


def test_what_a_killed_process_left_is_made_anew_and_counted_as_left_over(tmp_path):
    config = Data(write_lines(tmp_path / "a.jsonl", [f"text {n}" for n in range(30)]), Tokenizer("bytes"), 8)
    split = open_splits(config, Bytes(), tmp_path / "cache", lambda _: None).training[0]
    folder = index_folder(split)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / "text-00000.npy").write_bytes(b"half")
    old = 1_600_000_000
    os.utime(unfinished, (old, old))
    assert [each.path for each in list_leftovers(tmp_path / "cache" / "stores")] == [unfinished]
    assert TrainingIndex([SourceIndex(split)]).count(ids("text 1")) > 0
    assert not unfinished.exists()


def test_a_folder_without_its_manifest_is_made_anew(tmp_path):
    config = Data(write_lines(tmp_path / "a.jsonl", [f"text {n}" for n in range(30)]), Tokenizer("bytes"), 8)
    split = open_splits(config, Bytes(), tmp_path / "cache", lambda _: None).training[0]
    (SourceIndex(split).folder / "manifest.json").unlink()
    assert TrainingIndex([SourceIndex(split)]).count(ids("text 1")) > 0


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"parts": []}', '{"format": 2, "tokens": 0, "parts": 1}', "7"])
def test_a_damaged_manifest_is_refused_in_a_line(tmp_path, manifest):
    corpus = Corpus(tmp_path, [[1, 2, 3], [4, 5]])
    (source,) = corpus.index().sources
    (source.folder / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=r"a damaged index \([^\n]*\); remove it, and it is made again"):
        SourceIndex(Split("own", corpus, corpus.documents, corpus.plans))


@pytest.mark.parametrize("name", part.ARRAYS)
@pytest.mark.parametrize("other", [[[1, 2, 3, 4, 5, 6, 7]], [[6, 5, 4], [3, 2, 1]]])
def test_arrays_of_another_build_are_refused_in_a_line(tmp_path, name, other):
    """One of other sizes, and one of the same sizes with other tokens, whose starts and places are the same."""
    corpus = Corpus(tmp_path / "own", [[1, 1, 2], [3, 2, 1]])
    (source,) = corpus.index().sources
    (theirs,) = Corpus(tmp_path / "other", other).index().sources
    file = part.part_file(source.folder, name, 0)
    shutil.copy(part.part_file(theirs.folder, name, 0), file)
    split = Split("own", corpus, corpus.documents, corpus.plans)
    if len(other) == 2 and name in ("starts", "places"):
        assert SourceIndex(split).parts
    else:
        with pytest.raises(DataError, match=r"a damaged index \([^\n]*\); remove it, and it is made again"):
            SourceIndex(split)


def test_a_damaged_index_is_named_and_a_full_disk_too(tmp_path, monkeypatch):
    config = Data(write_lines(tmp_path / "a.jsonl", [f"text {n}" for n in range(30)]), Tokenizer("bytes"), 8)
    split = open_splits(config, Bytes(), tmp_path / "cache", lambda _: None).training[0]
    index = SourceIndex(split)
    (index.folder / "suffixes-00000.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"a damaged index \(.*\); remove it, and it is made again"):
        SourceIndex(split)
    shutil.rmtree(index.folder)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "save_whole", fail)
    with pytest.raises(DataError, match=r"can't write the token cache \(No space left on device\); make room there"):
        SourceIndex(split)
