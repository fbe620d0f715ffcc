"""Mixtures, row by row, against a plain slow rule, and the rows that several sources give together."""

import json
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from data import mixture
from data.config import Data, Mixture, Part, Phase, Source, Span
from data.config import Tokenizer as Config
from data.errors import DataError, FieldError
from data.mixture import MixedSource, Mixing, block_counts
from data.packing import PACKINGS
from data.pipeline import Pipeline, open_pipeline

ROWS = 240
OF_TEXT = [name for name in PACKINGS if name != "pairs"]  # those that need no pairs


@st.composite
def mixtures(draw, rows: int = ROWS) -> tuple[list[MixedSource], list[tuple]]:
    """Sources of which some stop, and phases that start anywhere; a weight may be 0."""
    count = draw(st.integers(1, 4))
    sources = [
        MixedSource(
            f"source {i}", draw(st.sampled_from([1.0, 3.0, 7.5])), draw(st.integers(1, 90)), draw(st.booleans())
        )
        for i in range(count)
    ]
    starts = [0, *sorted(draw(st.sets(st.integers(1, rows), max_size=3)))]
    weights = st.lists(st.sampled_from([0, 1, 1.5, 3, 8]), min_size=count, max_size=count).filter(any)
    return sources, [(start, draw(weights)) for start in starts]


def enumerate_rows(sources: list[MixedSource], phases: list[tuple], rows: int) -> list[tuple[int, int]]:
    """(source, row of the source) of each row. In a block each source has so many seats, and the next row is the one's
    that is the furthest behind: of which (taken + 1/2) / seats is the least. A block begins with every change."""
    weights_from, drawn, found = dict(phases), [0] * len(sources), []
    seats = None
    while len(found) < rows:
        if len(found) in weights_from:
            weights, seats = weights_from.pop(len(found)), None
        if seats is None:
            shares = [
                0 if not s.repeats and given == s.rows_per_epoch else w / s.row_tokens
                for w, s, given in zip(weights, sources, drawn, strict=True)
            ]
            if not any(shares):
                break
            seats, taken = block_counts(np.array(shares), sources).tolist(), [0] * len(sources)
        if taken == seats:
            taken = [0] * len(sources)
        waiting = [(Fraction(2 * t + 1, n), i) for i, (t, n) in enumerate(zip(taken, seats, strict=True)) if n]
        _, source = min(waiting)
        if not sources[source].repeats and drawn[source] == sources[source].rows_per_epoch:
            seats = None
            continue
        found.append((source, drawn[source]))
        drawn[source] += 1
        taken[source] += 1
    return found


STOPPING = [MixedSource(f"source {i}", 1.0, rows, False) for i, rows in enumerate((1, 1, 1, 3))]


@settings(deadline=None)
@given(mixtures(), st.integers(40, 130))
@example((STOPPING, [(0, [0, 0, 1, 0]), (1, [0, 1.5, 1, 8])]), 40)  # one has given its epoch where a phase begins
def test_rows_are_those_of_the_rule_one_by_one(mixed, size):
    sources, phases = mixed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "BLOCK", size)
        try:
            mixing = Mixing(sources, phases)
        except FieldError:  # a share below one row of so small a block
            reject()
        expected = enumerate_rows(sources, phases, ROWS)
        assert mixing.end == len(expected) if len(expected) < ROWS else mixing.end >= ROWS
        rows = np.arange(len(expected))
        which, numbers = mixing.locate(rows)
        assert list(zip(which.tolist(), numbers.tolist(), strict=True)) == expected
        drawn = [0] * len(sources)
        for count, source in enumerate([*which.tolist(), None]):
            assert mixing.drawn(count).tolist() == drawn
            assert mixing.epochs(count) == {s.name: n / s.rows_per_epoch for s, n in zip(sources, drawn, strict=True)}
            if source is not None:
                drawn[source] += 1
        backwards = mixing.locate(rows[::-3])
        assert (backwards[0] == which[::-3]).all() and (backwards[1] == numbers[::-3]).all()
        if mixing.end < ROWS:
            with pytest.raises(DataError, match=rf"ended after {mixing.end} rows; let one of them repeat"):
                mixing.locate(np.array([0, mixing.end]))


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(201, 400))
def test_a_source_is_never_far_from_its_share(weights, size):
    """Of S sources one of share p is within 1/2 + p (S - 2) / 2 rows of it, after any number of rows.

    At a share x of a block each source has given n x of its n rows, but for an error of 1/2 at most. All rows are x
    times the block but for the sum of these errors, of which the part p is taken from its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "BLOCK", size)
        sources = [MixedSource(str(i), 1.0, 10, True) for i in range(len(weights))]
        mixing = Mixing(sources, [(0, weights)])
        which, _ = mixing.locate(np.arange(2 * size + 7))
        shares = block_counts(np.array(weights, float), sources) / size
        drawn = np.cumsum(which[:, None] == np.arange(len(weights)), 0)
        far = np.abs(drawn - np.arange(1, len(which) + 1)[:, None] * shares)
        assert (far <= 0.5 + shares * (len(weights) - 2) / 2 + 1e-9).all()
        assert far[[size - 1, 2 * size - 1]].max() < 1e-9, "after whole blocks it is exact"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
def test_the_rows_of_a_block_are_within_one_of_the_exact_shares(weights):
    sources = [MixedSource(str(i), 1.0, 10, True) for i in range(len(weights))]
    counts = block_counts(np.array(weights), sources)
    exact = [Fraction(w) / sum(map(Fraction, weights)) * mixture.BLOCK for w in weights]
    assert counts.sum() == mixture.BLOCK
    assert all(abs(count - share) < 1 for count, share in zip(counts.tolist(), exact, strict=True))


def test_a_schedule_of_many_phases_takes_little_memory():
    sources = [MixedSource("one", 1.0, 10, True), MixedSource("other", 1.0, 10, True)]
    tracemalloc.start()
    try:
        Mixing(sources, [(1000 * i, [1.0, 2.0 + i]) for i in range(100)])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20e6


def test_a_share_of_less_than_a_row_in_a_block_is_refused():
    sources = [MixedSource("large", 1.0, 10, True), MixedSource("small", 1.0, 10, True)]
    Mixing(sources, [(0, [mixture.BLOCK, 1])])
    with pytest.raises(
        FieldError, match=r"data.source: the weight of small gives it less than one row in 65536; raise"
    ):
        Mixing(sources, [(0, [mixture.BLOCK * 3, 1])])


# Pipelines of real files

LENGTH = 16
SIZES = {"a": (80, 9), "b": (40, 45), "c": (130, 3)}  # letter -> documents, and letters in them, about


def letters(folder: Path, letter: str) -> Source:
    count, size = SIZES[letter]
    texts = [letter * (1 + size * (i % 5) // 2 + i % 3) + chr(ord("0") + i % 10) for i in range(count)]
    (folder / f"{letter}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Source(str(folder / f"{letter}.jsonl"))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Opens the pipeline of a mixture of the sources that are given by their letters, or of one of them alone."""
    folder = tmp_path_factory.mktemp("letters")
    sources = {letter: letters(folder, letter) for letter in SIZES}

    def open_(
        parts: dict | str, packing: str = "concatenate", batch: int = 6, phases: tuple = (), **fields
    ) -> Pipeline:
        source = sources.get(parts) if isinstance(parts, str) else None
        if source is None:
            source = Mixture(tuple(Part(sources[letter], **settings) for letter, settings in parts.items()), phases)
        return open_pipeline(Data(source, Config("bytes"), LENGTH, packing, **fields), batch, 3, folder / "cache")

    return open_


MIXTURES = {
    "two": {"a": {"weight": 3.0}, "b": {}},
    "three": {"a": {"weight": 2.0}, "b": {"weight": 5.0, "at_end": "stop"}, "c": {}},
}


@pytest.mark.parametrize("packing", OF_TEXT)
@pytest.mark.parametrize("parts", MIXTURES.values(), ids=MIXTURES)
def test_the_rows_of_a_source_in_a_mixture_are_those_it_has_alone(opened, packing, parts):
    mixed = opened(parts, packing, phases=(Phase(20, (1.0,) * len(parts)),))
    alone = [opened(letter, packing, batch=900).rows(0, 0, 900) for letter in parts]
    next_row = [0] * len(parts)
    for step in range(100):
        rows = mixed.rows(step, 0, 6)
        sources, numbers = mixed.mixing.locate(step * 6 + np.arange(6))
        for place, (source, number) in enumerate(zip(sources.tolist(), numbers.tolist(), strict=True)):
            assert number == next_row[source], "none is left out"
            next_row[source] += 1
            assert all((a[place] == b[number]).all() for a, b in zip(rows, alone[source], strict=True))
    if len(parts) == 3:
        assert mixed.sources[1].packing.rows_per_epoch == next_row[1], "b stops"


@pytest.mark.parametrize("packing", OF_TEXT)
def test_weights_are_shares_of_tokens(opened, packing):
    """Rows of `c` hold a few tokens each where documents are not joined; still a fifth of all predictions are its."""
    weights = {"a": 2.0, "b": 2.0, "c": 1.0}
    mixed = opened({letter: {"weight": weight} for letter, weight in weights.items()}, packing, batch=4000)
    rows = mixed.rows(0, 0, 4000)
    sources, _ = mixed.mixing.locate(np.arange(4000))
    predictions = np.bincount(sources, rows.weights.sum(1))
    np.testing.assert_allclose(predictions / predictions.sum(), [0.4, 0.4, 0.2], rtol=0.02)


def test_a_phase_begins_with_its_step(opened):
    mixed = opened({"a": {}, "b": {"weight": 0.0}}, batch=5, phases=(Phase(7, (0.0, 1.0)), Phase(9, (1.0, 1.0))))
    found = ["".join(sorted({chr(t) for t in mixed.rows(step, 0, 5).tokens.ravel()} & {*"abc"})) for step in range(11)]
    assert found == ["a"] * 7 + ["b"] * 2 + ["ab"] * 2


def test_a_source_that_stops_leaves_its_share_to_the_others(opened):
    mixed = opened({"a": {"at_end": "stop"}, "b": {}, "c": {}}, "padding", batch=10)
    epochs = [mixed.epochs(step) for step in range(0, 200)]
    assert max(e["a.jsonl"] for e in epochs) == 1.0 == epochs[-1]["a.jsonl"]
    gained = {name: epochs[-1][name] - epochs[-50][name] for name in epochs[0]}
    tokens = {s.name: gained[s.name] * s.packing.predictions for s in mixed.sources}
    assert tokens["a.jsonl"] == 0 and tokens["b.jsonl"] == pytest.approx(tokens["c.jsonl"], rel=0.05)


def test_a_mixture_of_which_all_sources_end_says_so_before_the_run(opened):
    mixed = opened({"a": {"at_end": "stop"}, "b": {"at_end": "stop"}}, batch=1)
    steps = mixed.mixing.end
    assert mixed.mixing.end == sum(source.packing.rows_per_epoch for source in mixed.sources)
    mixed.check_steps(steps)
    mixed.rows(steps - 1, 0, 1)
    with pytest.raises(FieldError, match=rf"before step {steps + 1}; let one of them repeat .*or set steps={steps}$"):
        mixed.check_steps(steps + 1)
    with pytest.raises(DataError, match=r"every source of the mixture has ended after"):
        mixed.rows(steps, 0, 1)
    opened({"a": {"at_end": "stop"}, "b": {}}).check_steps(10**9)


def test_parts_have_the_names_of_their_files_or_their_own_and_no_two_the_same(opened):
    mixed = opened({"a": {"name": "first"}, "b": {}})
    assert [source.name for source in mixed.sources] == ["first", "b.jsonl"] == [text.name for text in mixed.validation]
    assert [*mixed.epochs(9)] == ["first", "b.jsonl"]
    assert [opened("a").sources[0].name, opened("a").validation[0].name] == ["source", "source"]
    with pytest.raises(FieldError, match=r"data.source.parts: 2 of them are named 'b.jsonl'; give each a name"):
        opened({"a": {"name": "b.jsonl"}, "b": {}})


def test_each_source_has_a_validation_text_of_its_own(opened):
    mixed = opened({"a": {}, "b": {}, "c": {}}, train=Span(0.0, 0.6), validation=Span(0.6, 1.0))
    for letter, text in zip("abc", mixed.validation, strict=True):
        alone = opened(letter, train=Span(0.0, 0.6), validation=Span(0.6, 1.0)).validation[0]
        assert text.bytes == alone.bytes > 0 and (text.documents.index == alone.documents.index).all()
