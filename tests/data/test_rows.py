"""Which tokens a row holds: counted, compared with the joined text, and drawn at random by Hypothesis."""

import collections
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data import permutation
from data.best_fit import best_fit
from data.config import Data, Source, Span, split_spans
from data.config import Tokenizer as Config
from data.documents import Documents, Pieces
from data.errors import DataError
from data.packing import PACKINGS, make_packing
from data.pipeline import fill_rows, open_pipeline
from data.rows import Rows
from data.tokenizers.byte_level import Bytes
from data.windows import scoring_rows


def numbered(lengths: list[int], ended: bool = False) -> Documents:
    """Documents whose token i is the number i, so that places and tokens are one."""
    offsets = np.cumsum([0, *lengths])
    return Documents(np.arange(offsets[-1], dtype=np.uint32), offsets, np.array(lengths), ended)


def targets(documents: Documents) -> list[int]:
    """Every token but the first of each document."""
    pairs = itertools.pairwise(documents.offsets.tolist())
    return [token for start, stop in pairs for token in range(start + 1, stop)]


def epoch_of(packing, epoch: int) -> np.ndarray:
    return np.arange(packing.rows_per_epoch) + epoch * packing.rows_per_epoch


def filled(packing, documents: Documents, rows: np.ndarray, length: int) -> Rows:
    made = Rows.empty(len(rows), length)
    fill_rows(made, np.arange(len(rows)), documents, packing.spans(rows))
    return made


DOCUMENTS = st.lists(st.integers(0, 9), min_size=1, max_size=40)
LENGTHS = st.integers(1, 12)
WHOLE = ["concatenate", "best_fit", "padding"]  # packings whose epochs read everything once


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


# Packings


@given(DOCUMENTS, LENGTHS, st.integers(0, 5), st.integers(0, 2), st.sampled_from(WHOLE))
def test_an_epoch_predicts_every_token_but_the_first_of_each_document_once(documents, length, seed, epoch, kind):
    joined = numbered(documents)
    assume(joined.targets)
    packing = make_packing(kind, joined, length, seed)
    rows = filled(packing, joined, epoch_of(packing, epoch), length)
    assert sorted(rows.targets[rows.weights > 0].tolist()) == targets(joined)
    assert packing.predictions == len(targets(joined)) and (rows.weights == (rows.segments > 0)).all()


@given(DOCUMENTS, LENGTHS, st.integers(0, 3), st.sampled_from([*WHOLE, "windows"]))
def test_segments_and_positions_say_where_documents_begin(documents, length, seed, kind):
    joined = numbered(documents)
    assume(joined.targets >= length)
    packing = make_packing(kind, joined, length, seed)
    of_document = np.searchsorted(joined.offsets, np.arange(joined.offsets[-1]), side="right")
    for tokens, following, segments, positions, weights in zip(
        *filled(packing, joined, np.arange(9), length), strict=True
    ):
        used = int(weights.sum())
        assert not weights[used:].any() and not segments[used:].any(), "padding comes last"
        assert (following[:used] == tokens[:used] + 1).all()
        assert (of_document[following[:used]] == of_document[tokens[:used]]).all(), "no document sees another's token"
        for t in range(used):
            goes_on = t > 0 and tokens[t] == tokens[t - 1] + 1 and of_document[tokens[t]] == of_document[tokens[t - 1]]
            assert positions[t] == (positions[t - 1] + 1 if goes_on else 0)
            assert segments[t] == (1 if t == 0 else segments[t - 1] + (not goes_on))


@given(DOCUMENTS, LENGTHS, st.integers(0, 3), st.sampled_from(["best_fit", "padding"]))
def test_only_documents_longer_than_a_row_cross_a_border(documents, length, seed, kind):
    joined = numbered(documents)
    assume(joined.targets)
    packing = make_packing(kind, joined, length, seed)
    spans = packing.spans(epoch_of(packing, 0))
    for start, stop in zip(spans.starts.tolist(), spans.stops.tolist(), strict=True):
        document = int(np.searchsorted(joined.offsets, start, side="right")) - 1
        first, last = joined.offsets[document : document + 2].tolist()
        if last - first - 1 <= length:
            assert (start, stop) == (first, last - 1)
        else:
            assert (start - first) % length == 0 and stop == min(start + length, last - 1)
    if kind == "padding":
        assert spans.rows.tolist() == list(range(packing.rows_per_epoch)), "one span a row"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80))
def test_best_fit_is_what_one_part_at_a_time_gives(sizes):
    """Best-fit decreasing, written down as it is defined."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else 30) - size)
    found = best_fit(np.bincount(sizes, minlength=31), 30)
    used = [sum(a * b for a, b in zip(p.lengths, p.copies, strict=True)) for p in found for _ in range(p.rows)]
    assert sorted(30 - size for size in used) == sorted(rooms)


@pytest.mark.parametrize("kind", WHOLE)
def test_epochs_and_seeds_take_other_orders(kind):
    joined = numbered([50, 70, 30, 8, 9, 3, 3, 2])
    orders = set()
    for seed, epoch in itertools.product(range(3), range(3)):
        packing = make_packing(kind, joined, 4, seed)
        orders.add(tuple(packing.spans(epoch_of(packing, epoch)).starts.tolist()))
    assert len(orders) == 9


def test_rows_are_cut_elsewhere_in_another_epoch():
    packing = make_packing("concatenate", numbered([150]), 4, 0)
    assert len({tuple(sorted(packing.spans(epoch_of(packing, e)).starts % 4)) for e in range(8)}) > 1


def test_windows_start_anywhere_alike():
    """nanoGPT's get_batch: torch.randint(len(data) - block_size)."""
    joined, rows = numbered([21]), 30_000
    starts = make_packing("windows", joined, 5, 0).spans(np.arange(rows)).starts
    counts = np.bincount(starts)
    assert len(counts) == 16 and counts.min() > 0
    assert ((counts - rows / 16) ** 2 / (rows / 16)).sum() < 44.3  # 15 degrees of freedom, p = 0.0001
    pairs = np.corrcoef(starts[:-1], starts[1:])[0, 1]
    assert abs(pairs) < 4 / math.sqrt(rows)


@given(DOCUMENTS, st.integers(0, 60), st.integers(0, 60), st.lists(st.integers(0, 39), unique=True))
def test_a_part_of_a_store_is_read_like_a_store_of_its_own(documents, a, b, chosen):
    """By position, where documents at the border are cut, and by number."""
    joined = numbered(documents)
    first, last = sorted((min(a, len(joined.tokens)), min(b, len(joined.tokens))))
    part = replace(joined, first=first, last=last)
    assert sum(part.bounds(n).targets.sum() for n in part.chunks()) == part.targets
    pairs = [(max(s, first), min(e, last)) for s, e in itertools.pairwise(joined.offsets.tolist())]
    expected = [token for start, stop in pairs for token in range(start + 1, stop)]
    if part.targets:
        rows = filled(packing := make_packing("padding", part, 5, 0), part, epoch_of(packing, 0), 5)
        assert sorted(rows.targets[rows.weights > 0].tolist()) == expected
    assert part.targets == len(expected)
    index = np.array(sorted(n for n in chosen if n < len(documents)), np.uint32)
    part = replace(joined, index=index)
    offsets = joined.offsets.tolist()
    expected = [token for n in index.tolist() for token in range(offsets[n] + 1, offsets[n + 1])]
    if part.targets:
        rows = filled(packing := make_packing("best_fit", part, 5, 0), part, epoch_of(packing, 0), 5)
        assert sorted(rows.targets[rows.weights > 0].tolist()) == expected


def test_prompts_have_no_weight():
    joined = replace(numbered([6, 5], ended=True), pieces=Pieces(np.array([0, 3, 6, 8]), np.array([0, 1, 0, 1], bool)))
    rows = filled(make_packing("padding", joined, 8, 0), joined, np.arange(2), 8)
    weighted = sorted(rows.targets[rows.weights > 0].tolist())
    assert weighted == [3, 4, 5, 8, 9, 10]


# A run's rows


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    text = "".join(f"line {i}\n" for i in range(500))
    (folder / "a.txt").write_text(text)

    def opened(batch: int = 12, seed: int = 0, **fields):
        config = Data(Source(str(folder / "a.txt")), Config("bytes"), 16, **fields)
        return open_pipeline(config, batch, seed, folder / "cache")

    return opened


@pytest.mark.parametrize("rows", [name for name in PACKINGS if name != "pairs"])
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
    (validation,) = opened.validation
    read = Bytes().decode(opened.sources[0].documents.tokens[:].tolist())
    half = read[: len(read) // 2]
    assert "line 400" not in half and validation.documents.first == len(half)
    for step in range(60):
        rows = opened.rows(step, 0, 12)
        assert all(Bytes().decode(row.tolist()) in half for row in rows.tokens[rows.weights.all(1)])


@pytest.mark.parametrize("packing", ["concatenate", "windows"])
def test_a_text_shorter_than_a_row_says_what_would_fit(tmp_path, packing):
    (tmp_path / "a.txt").write_text("0123456789")
    halves = {"packing": packing, "train": Span(0.0, 0.5), "validation": Span(0.5, 1.0)}
    config = Data(Source(str(tmp_path / "a.txt")), Config("bytes"), 5, **halves)
    with pytest.raises(DataError, match=r"a.txt: 4 tokens to predict are fewer than a row .*data.length=4 would fit"):
        open_pipeline(config, 1, 0, tmp_path)
    four = Data(Source(str(tmp_path / "a.txt")), Config("bytes"), 4, **halves)
    assert open_pipeline(four, 1, 0, tmp_path).rows(0, 0, 1).tokens.shape == (1, 4)


@pytest.mark.parametrize("packing", ["concatenate", "windows", "best_fit", "padding"])
@pytest.mark.parametrize(
    "record, message",
    [
        ({"text": "a"}, "no document of its training part has two tokens"),
        ({"question": "why?", "text": ""}, "is empty"),
    ],
)
def test_training_with_nothing_to_predict_is_refused(tmp_path, packing, record, message):
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(record)}\n" * 10)
    (tmp_path / "other.txt").write_text("0123456789")
    source = Source(str(tmp_path / "train.jsonl"), prompt="question" if "question" in record else None)
    validation = Source(str(tmp_path / "other.txt"))
    config = Data(source, Config("bytes"), 4, packing, validation_source=validation)
    with pytest.raises(DataError, match=f"train.jsonl: nothing to train on: .*{message}"):
        open_pipeline(config, 1, 0, tmp_path / "cache")


def test_a_validation_split_without_a_target_is_refused(tmp_path):
    """Ten documents of a character: a document's first token is predicted from nothing."""
    (tmp_path / "train.txt").write_text("0123456789")
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n' * 10)
    sources = Source(str(tmp_path / "train.txt")), Source(str(tmp_path / "one.jsonl"))
    config = Data(sources[0], Config("bytes"), 4, validation=Span(0.5, 1.0), validation_source=sources[1])
    with pytest.raises(DataError, match=r"one.jsonl, data.validation: nothing to score.*two tokens"):
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
    (training,), (validation,) = opened.splits
    assert (training.store.manifest["tokens"], validation.store.manifest["tokens"]) == (4500, 700)
    assert opened.validation[0].bytes == 699
    with pytest.raises(
        DataError, match=r"b.txt is in data.source, too, and would be trained on; move it out of .*texts"
    ):
        open_pipeline(
            Data(*given, validation_source=Source(str(tmp_path / "texts" / "b.txt"))), 4, 0, tmp_path / "cache"
        )


# Scoring


@settings(max_examples=200)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 8), st.data())
def test_every_target_counts_once_with_all_the_context_its_window_has(documents, length, data):
    """And all but end tokens stand for text."""
    ended = data.draw(st.booleans())
    joined = numbered(documents, ended)
    stride, batch = data.draw(st.integers(1, length)), data.draw(st.integers(1, 4))
    seen: dict[int, int] = {}
    text = []
    for scored in scoring_rows(joined, length, stride, batch):
        assert scored.rows.tokens.shape == scored.text.shape == (batch, length)
        text += scored.rows.targets[scored.text > 0].tolist()
        for tokens, following, segments, positions, weights in zip(*scored.rows, strict=True):
            for t in np.flatnonzero(weights):
                first = t - positions[t]  # of its window
                assert (
                    following[t] == tokens[t] + 1
                    and (tokens[first : t + 1] == tokens[first] + np.arange(t + 1 - first)).all()
                )
                assert set(segments[first : t + 1]) == {segments[t]} and segments[t] > 0
                assert first == 0 or segments[first - 1] == segments[t] - 1, "windows of a row do not see each other"
                assert following[t] not in seen
                seen[int(following[t])] = int(positions[t] + 1)  # tokens it is predicted from
    bounds = list(itertools.pairwise(joined.offsets.tolist()))
    assert sorted(seen) == targets(joined)
    assert sorted(text) == [token for start, stop in bounds for token in range(start + 1, stop - ended)]
    for first, stop in bounds:
        for token in range(first + 1, stop):
            before = token - first
            assert seen[token] >= min(before, length - stride + 1), "overlap is context"
            assert seen[token] == before or seen[token] <= length


def test_short_documents_share_rows_when_they_are_scored():
    (scored,) = scoring_rows(numbered([6, 4, 9, 2, 3, 12]), 12, 12, 4)
    assert [sorted(set(row) - {0}) for row in scored.rows.segments.tolist()] == [[1, 2], [1, 2, 3], [1], []]
    assert scored.rows.weights.sum() == 5 + 3 + 8 + 1 + 2 + 11


def test_windows_of_64_are_what_nanogpts_table_counts():
    """Not overlapping: 111,540 tokens are 1,743 windows of 64, the last with what is left over."""
    batches = list(scoring_rows(numbered([111_540]), 64, 64, 256))
    assert sum(int(scored.rows.weights.any(1).sum()) for scored in batches) == 1743
    assert sum(scored.rows.weights.sum() for scored in batches) == sum(s.text.sum() for s in batches) == 111_539
