"""The rows of a step depend on the config, the data and the step alone; no document is lost or doubled in an epoch."""

import hashlib
import itertools
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Data, Mixture, Part, Phase, Source
from data.config import Tokenizer as Config
from data.pipeline import Pipeline, open_pipeline
from data.rows import Rows
from data.store import writer

ROOT = Path(__file__).parents[2]
STEPS, BATCH, LENGTH = 1000, 12, 12
PACKINGS = ["concatenate", "best_fit", "padding", "windows"]
READERS = {1: [0, 12], 2: [0, 5, 12], 3: [0, 1, 8, 12], 8: [0, 1, 2, 3, 5, 6, 9, 11, 12]}  # where their rows begin


def write_texts(folder: Path, name: str, count: int, longest: int) -> Source:
    """Random texts, also empty ones."""
    chance = random.Random(name)
    texts = ["".join(chance.choices("abcdefgh", k=int(longest * chance.random() ** 3))) for _ in range(count)]
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Source(str(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("exact")


@pytest.fixture(scope="module")
def cases(folder) -> dict[str, Data]:
    """A config of each packing, and a mixture with phases and a source that stops after some 300 steps."""
    a, b, c = (
        write_texts(folder, f"{name}.jsonl", 700, longest) for name, longest in zip("abc", (60, 25, 90), strict=True)
    )
    parts = Part(a, 2.0), Part(b, 1.0, "stop"), Part(c, 0.5)
    mixed = Mixture(parts, (Phase(111, (1.0, 1.0, 1.0)), Phase(700, (0.3, 1.0, 0.0))))
    single = {packing: Data(a, Config("bytes"), LENGTH, packing) for packing in PACKINGS}
    return {**single, "mixture": Data(mixed, Config("bytes"), LENGTH, "best_fit")}


@pytest.fixture(autouse=True)
def unclean_memory(monkeypatch):
    """Rows begin as garbage, another each time: what is not written shows."""
    empty, chance = Rows.empty, np.random.default_rng()

    def unclean(count: int, length: int) -> Rows:
        rows = empty(count, length)
        for array in rows:
            array[:] = chance.integers(1, 2000)
        return rows

    monkeypatch.setattr(Rows, "empty", unclean)


def opened(data: Data, cache: Path) -> Pipeline:
    return open_pipeline(data, BATCH, 5, cache)


def read_step(pipeline: Pipeline, step: int, borders: list[int]) -> list[np.ndarray]:
    """A step's five arrays, each reader's rows joined in order."""
    parts = [pipeline.rows(step, start, stop) for start, stop in itertools.pairwise(borders)]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def hash_steps(pipeline: Pipeline, first: int, stop: int, readers: int) -> list[str]:
    """sha256 of the five arrays of each step."""
    steps = (read_step(pipeline, step, READERS[readers]) for step in range(first, stop))
    return [hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest() for arrays in steps]


@pytest.fixture(scope="module")
def hashes(cases, folder) -> dict[str, list[str]]:
    """Of one reader who never stops."""
    return {name: hash_steps(opened(data, folder / "cache"), 0, STEPS, 1) for name, data in cases.items()}


def test_the_steps_of_all_packings_differ(hashes):
    for name, digests in hashes.items():
        print(name, hashlib.sha256("".join(digests).encode()).hexdigest())
    assert len({digest for digests in hashes.values() for digest in digests}) == STEPS * len(hashes) == 5000


@pytest.mark.parametrize("name", [*PACKINGS, "mixture"])
def test_a_thousand_steps_are_the_same_however_often_they_are_resumed_by_another_number_of_readers(
    cases, hashes, folder, name
):
    resumed = sorted(random.Random(name).sample(range(1, STEPS), 11))
    found = []
    for (first, stop), readers in zip(itertools.pairwise([0, *resumed, STEPS]), itertools.cycle(READERS), strict=False):
        found += hash_steps(opened(cases[name], folder / "cache"), first, stop, readers)
    assert found == hashes[name]


@pytest.mark.slow(4)
@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("name", [*PACKINGS, "mixture"])
def test_a_thousand_steps_are_the_same_for_any_number_of_readers(cases, hashes, folder, name, readers):
    resumed = random.Random(f"{name} {readers}").randrange(1, STEPS)
    found = hash_steps(opened(cases[name], folder / "cache"), 0, resumed, readers)
    assert found + hash_steps(opened(cases[name], folder / "cache"), resumed, STEPS, readers) == hashes[name]


FRESH = """
import json, pickle, sys
from pathlib import Path
sys.path.append("tests/data")
from test_exactness import hash_steps, opened
folder, first, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cases = pickle.loads((folder / "cases").read_bytes())
found = {}
for cache in ("cache", "another cache"):
    found[cache] = {name: hash_steps(opened(data, folder / cache), first, stop, 3) for name, data in cases.items()}
print(json.dumps(found))
"""


def test_another_process_makes_the_same_rows(cases, hashes, folder):
    """From the cache that the others read, and from one that it fills itself."""
    (folder / "cases").write_bytes(pickle.dumps(cases))
    first = random.Random(0).randrange(STEPS - 100)
    command = [sys.executable, "-c", FRESH, str(folder), str(first), str(first + 100)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    expected = {name: digests[first : first + 100] for name, digests in hashes.items()}
    assert json.loads(process.stdout) == {"cache": expected, "another cache": expected}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*PACKINGS, "mixture"]), st.integers(0, 10**6), st.lists(st.integers(0, BATCH), max_size=5))
def test_any_rows_of_any_step_are_those_of_the_whole_batch(pipelines, name, step, borders):
    """Readers may have no row at all, and ask for any step at any time."""
    whole = pipelines[name].rows(step, 0, BATCH)
    found = read_step(pipelines[name], step, sorted([0, *borders, BATCH]))
    assert all((a == b).all() for a, b in zip(found, whole, strict=True))


@pytest.fixture(scope="module")
def pipelines(cases, folder) -> dict[str, Pipeline]:
    return {name: opened(data, folder / "cache") for name, data in cases.items()}


# N of N

COUNT = 4000


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A file of documents whose tokens are all different numbers, one after another, and where each of them starts."""
    folder, chance = tmp_path_factory.mktemp("numbered"), np.random.default_rng(4)
    lengths = np.minimum(chance.geometric(0.04, COUNT) - 1, 300) * (chance.random(COUNT) > 0.02)
    lengths[chance.choice(COUNT, 20)] = chance.integers(300, 900, 20)
    offsets = np.cumsum([0, *lengths])
    documents = [list(range(start, stop)) for start, stop in itertools.pairwise(offsets.tolist())]
    write = lambda name, some: (folder / name).write_text("".join(json.dumps({"text": d}) + "\n" for d in some))  # noqa: E731
    write("a.jsonl", documents)
    write("b.jsonl", documents[100:1000:9])
    return folder, offsets


def expected_targets(pipeline: Pipeline, offsets: np.ndarray) -> set[int]:
    """Every token but the first of each document, or part of one, of the training split."""
    documents = pipeline.splits.training[0].documents
    stored = documents.in_store(np.arange(len(documents)))
    last = documents.last if documents.last is not None else offsets[-1]
    starts, stops = np.maximum(offsets[stored], documents.first), np.minimum(offsets[stored + 1], last)
    return {token for start, stop in zip(starts, stops, strict=True) for token in range(start + 1, stop)}


SPLITS = {"hash": {}, "position": {"split": "position"}, "without duplicates": {"drop_duplicates": True}}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("packing", ["concatenate", "best_fit", "padding"])
def test_an_epoch_has_every_target_of_every_document_once_and_two_have_it_twice(numbered, packing, split, monkeypatch):
    """Over several shards, read in batches that do not end with the epoch."""
    folder, offsets = numbered
    monkeypatch.setattr(writer, "SHARD_TOKENS", 20_000)
    fields, said = SPLITS[split], []
    if split == "without duplicates":
        fields = fields | {"validation_source": Source(str(folder / "b.jsonl"))}
    config = Data(Source(str(folder / "a.jsonl")), Config("ids", vocab_size=1 << 20), 64, packing, **fields)
    pipeline = open_pipeline(config, 50, 9, folder / "cache", None, said.append)
    assert len(pipeline.splits.training[0].store.manifest["shards"]) > 3
    epoch = pipeline.sources[0].packing.rows_per_epoch
    steps = [pipeline.rows(step, 0, 50) for step in range(-(-2 * epoch // 50))]
    targets, weights = (
        np.concatenate([getattr(s, name) for s in steps])[: 2 * epoch] for name in ("targets", "weights")
    )
    expected = sorted(expected_targets(pipeline, offsets))
    for rows in (slice(0, epoch), slice(epoch, 2 * epoch)):
        assert sorted(targets[rows][weights[rows] > 0].tolist()) == expected
    documents = pipeline.splits.training[0].documents
    empty = int((documents.bounds(np.arange(len(documents))).targets == 0).sum())
    assert empty and any(
        line.endswith(f"{empty} of {len(documents)} documents have nothing to predict") for line in said
    )


def test_every_document_is_on_one_side(numbered):
    """N of N: by hash, by position, and where duplicates are left out."""
    folder, offsets = numbered
    for split, fields in SPLITS.items():
        other = {"validation_source": Source(str(folder / "b.jsonl"))} if "drop_duplicates" in fields else {}
        config = Data(Source(str(folder / "a.jsonl")), Config("ids", vocab_size=1 << 20), 64, **fields, **other)
        pipeline = open_pipeline(config, 50, 9, folder / "cache")
        (training,), (validation,) = pipeline.splits
        read = []
        for side in (training.documents, validation.documents):
            bounds = side.bounds(np.arange(len(side)))
            read += [t for a, b in zip(*bounds[:2], strict=True) for t in side.tokens[a:b].tolist()]
        assert sorted(read) == list(range(offsets[-1])), split
