"""Which tokens a row holds: counted, compared with the joined text, and drawn at random by Hypothesis."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data import permutation
from data.config import Data, Source, Span, split_spans
from data.config import Tokenizer as Config
from data.documents import Documents
from data.errors import DataError
from data.packing import Concatenate, RandomWindows
from data.pipeline import cut_rows, open_pipeline
from data.tokenizers.byte_level import Bytes
from data.windows import scoring_rows


def numbered(lengths: list[int], shared: bool = False, ended: bool = False) -> Documents:
    """Documents whose token i is the number i, so that places and tokens are one."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(offsets[-1] + shared, dtype=np.uint32)
    return Documents(tokens, offsets, len(tokens), shared, ended or shared)


DOCUMENTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)
LENGTHS = st.integers(1, 12)


# Permutations


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_every_index_comes_once(size):
    found = permutation.permute(np.arange(size), size, permutation.derive_key(3, 1))
    assert sorted(found.tolist()) == list(range(size))


def test_permutations_differ_by_key_and_scatter():
    size, keys = 1000, [permutation.derive_key(seed, epoch) for seed in range(4) for epoch in range(4)]
    found = np.array([permutation.permute(np.arange(size), size, key) for key in keys])
    assert len({tuple(row) for row in found}) == len(keys)
    # Neighbours of a random permutation lie size / 3 apart on average, and its fixed points are Poisson(1).
    apart = np.abs(np.diff(found, axis=1)).mean()
    assert abs(apart - size / 3) < 4 * size / math.sqrt(18 * found.size)
    assert (found == np.arange(size)).sum() < 16 + 5 * 4


def test_every_order_of_three_is_about_as_frequent():
    counts = collections.Counter(
        tuple(permutation.permute(np.arange(3), 3, permutation.derive_key(seed)).tolist()) for seed in range(3000)
    )
    assert len(counts) == 6
    chi_square = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi_square < 25.7  # 5 degrees of freedom, p = 0.0001


# Rows


@given(DOCUMENTS, LENGTHS, st.integers(0, 5), st.integers(0, 2), st.booleans())
def test_an_epoch_reads_every_whole_row_of_the_joined_documents_once(documents, length, seed, epoch, shared):
    joined = numbered(documents, shared)
    assume(len(joined.tokens) > length)
    packed = Concatenate(joined, length, seed)
    rows = packed.token_indices(np.arange(packed.rows_per_epoch) + epoch * packed.rows_per_epoch, length)
    assert packed.rows_per_epoch == (len(joined.tokens) - 1) // length
    read = rows[:, :-1].ravel()
    assert len(set(read.tolist())) == len(read) == packed.rows_per_epoch * length, "no token is read twice"
    # A row runs through its documents: its next place is the next token, or the start of another document.
    # What ends the last document, where something does, comes behind whichever is the last one in this order.
    starts, ends = set(joined.offsets[: len(documents) + shared].tolist()), set((joined.offsets[1:] - 1).tolist())
    for row in rows.tolist():
        assert all(b == a + 1 or (a in ends and b in starts) for a, b in itertools.pairwise(row))
        assert not shared or joined.offsets[-1] not in row[:-1]


def test_epochs_and_seeds_take_other_orders():
    joined = numbered([50, 70, 30])
    places = {
        (seed, epoch): tuple(Concatenate(joined, 4, seed).token_indices(np.arange(37) + epoch * 37, 4)[:, 0].tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(places.values())) == 9
    assert len({p[0] % 4 for p in places.values()}) > 1, "borders between rows fall elsewhere in another epoch"


def test_windows_start_anywhere_alike():
    """nanoGPT's get_batch: torch.randint(len(data) - block_size)."""
    joined, rows = numbered([21]), 30_000
    starts = RandomWindows(joined, 5, seed=0).token_indices(np.arange(rows), 5)[:, 0]
    counts = np.bincount(starts)
    assert len(counts) == 16 and counts.min() > 0
    assert ((counts - rows / 16) ** 2 / (rows / 16)).sum() < 44.3  # 15 degrees of freedom, p = 0.0001
    pairs = np.corrcoef(starts[:-1], starts[1:])[0, 1]
    assert abs(pairs) < 4 / math.sqrt(rows)


@given(DOCUMENTS, LENGTHS, st.integers(0, 3), st.booleans())
def test_segments_positions_and_weights_say_where_documents_end(documents, length, seed, shared):
    joined = numbered(documents, shared)
    assume(len(joined.tokens) > length)
    rows = cut_rows(joined, Concatenate(joined, length, seed).token_indices(np.arange(7), length))
    document = [number for number, size in enumerate([*documents, shared]) for _ in range(size)]
    first = joined.offsets
    for tokens, targets, segments, positions, weights in zip(*rows, strict=True):
        assert segments[0] == 1 and positions[0] == 0
        for t in range(1, length):
            same = document[tokens[t]] == document[tokens[t - 1]] and tokens[t] == tokens[t - 1] + 1
            assert (segments[t], positions[t]) == (
                (segments[t - 1], positions[t - 1] + 1) if same else (segments[t - 1] + 1, 0)
            )
            if not same:
                assert tokens[t] in first
        np.testing.assert_array_equal(targets[:-1], tokens[1:])
        expected = [float(shared or document[a] == document[b]) for a, b in zip(tokens, targets, strict=True)]
        assert weights.tolist() == expected


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    text = "".join(f"line {i}\n" for i in range(500))
    (folder / "a.txt").write_text(text)

    def opened(batch: int = 12, seed: int = 0, **fields):
        config = Data(Source(str(folder / "a.txt")), Config("bytes"), 16, **fields)
        return open_pipeline(config, batch, seed, folder / "cache")

    return opened


@pytest.mark.parametrize("rows", ["concatenate", "windows"])
def test_a_batch_is_the_same_however_it_is_shared_out(pipeline, rows):
    """rows(step, start, stop) is a function: any process may ask for any part, in any order, again."""
    whole = {step: pipeline(packing=rows).rows(step, 0, 12) for step in (0, 3, 1000)}
    for step, parts in ((1000, 4), (0, 3), (3, 12), (0, 1)):
        size = 12 // parts
        found = [pipeline(packing=rows).rows(step, i * size, (i + 1) * size) for i in range(parts)]
        for field, expected in zip(zip(*found, strict=True), whole[step], strict=True):
            np.testing.assert_array_equal(np.concatenate(field), expected)
    assert not np.array_equal(whole[0].tokens, whole[3].tokens)
    other = pipeline(packing=rows, seed=1).rows(0, 0, 12)
    assert not np.array_equal(whole[0].tokens, other.tokens)


def test_training_never_sees_the_validation_text(pipeline):
    opened = pipeline(train=Span(0.0, 0.5), validation=Span(0.5, 1.0))
    text = Bytes().decode(opened.train.documents.tokens.tolist())
    assert "line 400" not in text and "line 400" in Bytes().decode(opened.validation.documents.tokens.tolist())
    for step in range(60):
        rows = opened.rows(step, 0, 12)
        assert all(Bytes().decode(row.tolist()) in text for row in rows.tokens)


@pytest.mark.parametrize("rows", ["concatenate", "windows"])
def test_a_text_shorter_than_a_row_says_what_would_fit(tmp_path, rows):
    (tmp_path / "a.txt").write_text("0123456789")
    halves = {"packing": rows, "train": Span(0.0, 0.5), "validation": Span(0.5, 1.0)}
    config = Data(Source(str(tmp_path / "a.txt")), Config("bytes"), 5, **halves)
    with pytest.raises(DataError, match=r"a.txt: 5 tokens are fewer than a row of data.length=5 .*data.length=4 would"):
        open_pipeline(config, 1, 0, tmp_path)
    four = Data(Source(str(tmp_path / "a.txt")), Config("bytes"), 4, **halves)
    assert open_pipeline(four, 1, 0, tmp_path).rows(0, 0, 1).tokens.shape == (1, 4)


def test_a_validation_split_without_a_target_is_refused(tmp_path):
    """Ten documents of a character: a document's first token is predicted from nothing."""
    (tmp_path / "train.txt").write_text("0123456789")
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n' * 10)
    sources = Source(str(tmp_path / "train.txt")), Source(str(tmp_path / "one.jsonl"))
    config = Data(sources[0], Config("bytes"), 4, validation=Span(0.5, 1.0), validation_source=sources[1])
    with pytest.raises(DataError, match=r"one.jsonl, data.validation 0.5 to 1: nothing to score.*two tokens"):
        open_pipeline(config, 1, 0, tmp_path)


@pytest.mark.parametrize(
    "fields, train, validation",
    [
        ({}, (0.0, 0.9), (0.9, 1.0)),
        ({"train": Span(0.1, 0.5)}, (0.1, 0.5), (0.9, 1.0)),
        ({"validation": Span(stop=0.95)}, (0.0, 0.9), (0.9, 0.95)),
        ({"train": Span(stop=1)}, (0.0, 1.0), (0.9, 1.0)),  # train/check.py refuses it
        ({"validation_source": Source("b.txt")}, (0.0, 1.0), (0.0, 1.0)),
        ({"validation_source": Source("b.txt"), "validation": Span(start=0.5)}, (0.0, 1.0), (0.5, 1.0)),
        ({"validation_source": Source("a.txt")}, (0.0, 0.9), (0.9, 1.0)),
    ],
)
def test_of_one_source_a_tenth_is_validation_and_two_are_taken_whole(fields, train, validation):
    found = split_spans(Data(Source("a.txt"), Config("bytes"), 16, **fields))
    assert (found.train, found.validation) == (Span(*train), Span(*validation))


def test_a_validation_file_of_its_own_is_read_whole_and_may_not_be_among_the_training_files(tmp_path):
    for name, size in (("texts/a.txt", 4000), ("texts/b.txt", 500), ("apart.txt", 700)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * size)
    given = Source(str(tmp_path / "texts")), Config("bytes"), 16
    opened = open_pipeline(
        Data(*given, validation_source=Source(str(tmp_path / "apart.txt"))), 4, 0, tmp_path / "cache"
    )
    assert (opened.train.manifest["tokens"], opened.validation.manifest["tokens"]) == (4500, 700)
    with pytest.raises(
        DataError, match=r"b.txt is in data.source, too, and would be trained on; move it out of .*texts"
    ):
        open_pipeline(
            Data(*given, validation_source=Source(str(tmp_path / "texts" / "b.txt"))), 4, 0, tmp_path / "cache"
        )


# Scoring


@settings(max_examples=200)
@given(DOCUMENTS, st.integers(1, 8), st.data())
def test_every_target_counts_once_with_all_the_context_its_window_has(documents, length, data):
    """And all but end tokens stand for text."""
    shared, ended = data.draw(st.sampled_from([(False, False), (False, True), (True, True)]))
    joined = numbered(documents, shared, ended)
    stride, batch = data.draw(st.integers(1, length)), data.draw(st.integers(1, 4))
    seen: dict[int, int] = {}
    text = []
    for scored in scoring_rows(joined, length, stride, batch):
        assert scored.rows.tokens.shape == scored.text.shape == (batch, length)
        text += scored.rows.targets[scored.text > 0].tolist()
        for tokens, targets, segments, _, weights in zip(*scored.rows, strict=True):
            for t in np.flatnonzero(weights):
                assert targets[t] == tokens[t] + 1 and segments[: t + 1].all()
                assert targets[t] not in seen
                seen[int(targets[t])] = int(t + 1)  # tokens it is predicted from
    starts = np.cumsum([0, *documents[:-1]]).tolist()
    bounds = [(start, start + size + shared) for start, size in zip(starts, documents, strict=True)]
    assert sorted(seen) == [token for start, stop in bounds for token in range(start + 1, stop)]
    assert sorted(text) == [token for start, stop in bounds for token in range(start + 1, stop - ended)]
    for first, stop in bounds:
        for token in range(first + 1, stop):
            before = token - first
            assert seen[token] >= min(before, length - stride + 1), "overlap is context"
            assert seen[token] == before or seen[token] <= length


def test_windows_of_64_are_what_nanogpts_table_counts():
    """Not overlapping: 111,540 tokens are 1,743 windows of 64, the last with what is left over."""
    batches = list(scoring_rows(numbered([111_540]), 64, 64, 256))
    assert sum(int(scored.rows.weights.any(1).sum()) for scored in batches) == 1743
    assert sum(scored.rows.weights.sum() for scored in batches) == sum(s.text.sum() for s in batches) == 111_539
