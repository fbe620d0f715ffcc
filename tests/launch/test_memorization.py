"""Exact extraction: which passages are drawn, how often they were read, and what of them the model writes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.documents import Documents
from data.index.training_index import SourceIndex, TrainingIndex
from data.plans import SavedPlans
from data.splits import Split
from launch.api import load
from launch.inference.provenance import open_training_index, training_epochs, training_splits
from launch.inference.tasks.statistics import wilson_interval
from launch.quality import memorization
from launch.quality.memorization import draw_passages, extraction

pytestmark = pytest.mark.timeout(120)
ONCE = np.random.default_rng(0).integers(0, 50, 4000).tolist()
THRICE, TEN = (list(range(start, start + 30)) for start in (50, 100))
DOCUMENTS = [ONCE, [*ONCE[:7], *THRICE] * 3, [*ONCE[50:57], *TEN] * 10]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> TrainingIndex:
    return open_index(tmp_path_factory.mktemp("index"), DOCUMENTS)


def open_index(folder: Path, documents: list[list[int]]) -> TrainingIndex:
    offsets = np.cumsum([0, *map(len, documents)])
    stored = Documents(np.concatenate(documents).astype(np.uint16), offsets, np.diff(offsets), False)
    manifest = {"source_path": "corpus", "files": ["corpus"], "records_by_file": [len(documents)]}
    store = SimpleNamespace(folder=folder, manifest=manifest)
    return TrainingIndex([SourceIndex(Split("own", store, stored, SavedPlans(folder / "plans", [])))])


def count(span: list[int]) -> int:
    return sum(d[i : i + len(span)] == span for d in DOCUMENTS for i in range(len(d) - len(span) + 1))


def test_passages_are_of_the_training_text_and_repeated_ones_are_found(index):
    drawn = draw_passages(index, [8, 12], 8, 20, {"own": 2.0}, np.random.default_rng(1))
    for k, passages in drawn.items():
        assert sum(passage.is_random for passage in passages) == 20
        assert all(count(passage.tokens) and len(passage.tokens) == k + 8 for passage in passages)
        repeated = [2 * count(passage.tokens[-16:]) for passage in passages if not passage.is_random]
        assert all(seen >= 2 for seen in repeated)
        assert {4 <= seen < 8 for seen in repeated} == {True, False} and max(repeated) >= 16
        assert len({tuple(passage.tokens[-16:]) for passage in passages}) == len(passages)
    assert [one.tokens[4:] for one in drawn[12]][:18] == [one.tokens for one in drawn[8]][:18]  # of the same places


def test_short_documents_have_passages_of_short_prompts(tmp_path):
    """Of documents of 20 tokens, one five times: it is a passage with 12 tokens given, and none has room for 30."""
    documents = np.random.default_rng(3).integers(0, 50, (60, 20)).tolist()
    drawn = draw_passages(
        open_index(tmp_path, [*documents, *4 * [documents[0]]]), [12, 30], 8, 20, {"own": 1.0}, np.random.default_rng(1)
    )
    assert drawn[30] == [] and {tuple(passage.tokens) for passage in drawn[12]} <= set(map(tuple, documents))
    assert documents[0] in [passage.tokens for passage in drawn[12]]
    assert sum(passage.is_random for passage in drawn[12]) > 0


def test_shares_are_those_of_the_passages_that_were_written_exactly(index, monkeypatch):
    """A model that knows what it read four times or more, and errs in the last token of all else."""

    def write_on(run, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        written = []
        for prompt in prompts:
            document = next(d for d in DOCUMENTS for i in range(len(d)) if d[i : i + len(prompt)] == prompt)
            place = next(i for i in range(len(document)) if document[i : i + len(prompt)] == prompt) + len(prompt)
            suffix = document[place : place + tokens]
            knows = 2 * count([*prompt, *suffix]) >= 4
            written.append(suffix if knows else [*suffix[:-1], suffix[-1] + 1])
        return written

    monkeypatch.setattr(memorization, "write_on", write_on)
    monkeypatch.setattr(memorization, "training_splits", lambda run: None)
    monkeypatch.setattr(memorization, "training_epochs", lambda run, splits: {"own": 2.0})
    found = extraction(SimpleNamespace(trained_length=20), index, (8, 12, 13), 8, texts=20)
    assert found["epochs"] == {"own": 2.0} and {row["prompt_tokens"] for row in found["random"]} == {8, 12}
    shares = {(row["prompt_tokens"], *row["seen"]): row for row in found["by_times_seen"]}
    assert shares[12, 2.0, 4.0]["share"] == 0 and shares[8, 16.0, 32.0]["share"] == 1
    assert shares[12, 4.0, 8.0]["share"] == 1  # two or three times in two epochs
    for row in found["by_times_seen"]:
        assert row["interval"] == wilson_interval(row["extracted"], row["texts"]) and row["texts"] > 0
    assert found["cost"]["generated_tokens"] == 8 * sum(row["texts"] for row in found["by_times_seen"])
    assert extraction(SimpleNamespace(trained_length=20), index, (13, 50), 8) is None


def test_a_run_writes_on_as_it_does_greedily(trained_run, skald, monkeypatch):
    monkeypatch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])
    monkeypatch.chdir(skald.folder)
    run = load(str(trained_run))
    assert training_epochs(run, training_splits(run)) == pytest.approx({"source": 40 * 8 * 32 / 100_385}, rel=0.01)
    trials, prompts = [], []
    own = memorization.write_on

    def write_on(run, asked, tokens):
        prompts.append(asked)
        trials.append(own(run, asked, tokens))
        return trials[-1]

    monkeypatch.setattr(memorization, "write_on", write_on)
    found = extraction(run, open_training_index(run), (10,), 6, texts=5)
    assert found["random"][0]["texts"] == 5 and found["suffix_tokens"] == 6
    for prompt, written in list(zip(prompts[0], trials[0], strict=True))[:3]:
        (sample,) = run.generate(run.tokenizer.decode(prompt), sampler="greedy", max_new_tokens=6)
        assert sample["tokens"] == written
