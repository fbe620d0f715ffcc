"""Stores of tokenized documents: what they hold, when they are made anew, and what is left of one that was killed."""

import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Source
from data.documents import Documents
from data.errors import DataError
from data.sources import source as sources
from data.store import build, cache, writer
from data.store.lock import held_lock
from data.store.store import find_store, open_store
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters

ROOT = Path(__file__).parents[2]
EMBEDDED = Source("embedded:shakespeare")


class Ended(Bytes):
    vocab_size, start_id, end_id = 258, 257, 256

    def to_json(self):
        return {"kind": "ended"}


def written(folder: Path, texts: list[str], name: str = "a.jsonl") -> Source:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Source(str(folder / name))


def documents_of(documents: Documents) -> list[list[int]]:
    bounds = documents.bounds(np.arange(len(documents)))
    return [documents.tokens[a:b].tolist() for a, b in zip(bounds.starts, bounds.stops, strict=True)]


def manifests(cache: Path) -> list[Path]:
    return list(cache.rglob("manifest.json"))


def test_documents_keep_their_borders_and_their_start_and_end_tokens(tmp_path):
    texts = ["one", "", "zwölf", "x" * 10]
    store = open_store(written(tmp_path, texts), Ended(), tmp_path / "cache")
    assert documents_of(store.documents) == [[257, *text.encode(), 256] for text in texts]
    assert store.documents.sizes.tolist() == [len(text.encode()) for text in texts]
    assert store.documents.tokens[np.arange(3)].dtype == np.uint16
    assert [store.manifest[name] for name in ("documents", "tokens", "bytes")] == [4, 27, 19]


def test_without_a_start_token_the_first_token_is_no_text_that_is_predicted(tmp_path):
    store = open_store(written(tmp_path, ["one", "", "zwölf"]), Bytes(), tmp_path / "cache")
    assert store.documents.sizes.tolist() == [2, 0, 5]


def test_large_vocabularies_take_four_bytes(tmp_path):
    class Wide(Bytes):
        vocab_size, start_id, end_id = 100_000, 99_998, 99_999

    tokens = open_store(written(tmp_path, ["x"]), Wide(), tmp_path / "cache").documents.tokens[:]
    assert tokens.tolist() == [99_998, 120, 99_999] and tokens.dtype == np.uint32


def test_prompts_are_pieces_that_do_not_count(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "ab", "text": "c"}\n{"q": "d", "text": "ef"}\n')
    store = open_store(Source(str(tmp_path / "a.jsonl"), prompt="q"), Ended(), tmp_path / "cache")
    documents = store.documents
    assert documents_of(documents) == [[257, *b"abc", 256], [257, *b"def", 256]]
    counted = documents.counts(np.arange(10))
    assert counted.tolist() == [False, False, False, True, True, False, False, True, True, True]
    assert documents.sizes.tolist() == [1, 2]


def test_the_end_behind_an_empty_response_counts(tmp_path):
    """Else a model would never learn to end at once."""
    (tmp_path / "a.jsonl").write_text('{"q": "ab", "text": ""}\n{"q": "", "text": "c"}\n')
    documents = open_store(Source(str(tmp_path / "a.jsonl"), prompt="q"), Ended(), tmp_path / "cache").documents
    assert documents_of(documents) == [[257, *b"ab", 256], [257, *b"c", 256]]
    assert documents.counts(np.arange(7)).tolist() == [False, False, False, True, False, True, True]


# When a store is made


def test_a_store_is_made_once_and_anew_when_anything_changes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text")
    lines: list[str] = []

    def tokens(tokenizer=None):
        store = open_store(Source(str(path)), tokenizer or Bytes(), tmp_path / "cache", lines.append)
        return store.documents.tokens[:].tolist()

    first = tokens()
    assert tokens() == first and len(lines) == 1
    assert len(tokens(Ended())) == len(first) + 2 and len(lines) == 2
    path.write_text("some more")
    assert tokens() == list(b"some more") and "tokenizing" in lines[-1]
    path.write_text("some text")
    assert tokens() == first and "comparing their content" in lines[-1], "it is found, as it was made before"
    assert tokens() == first and lines[-1].endswith("comparing their content") and len(manifests(tmp_path)) == 3


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    source = written(tmp_path, ["one", "two"])
    first = open_store(source, Bytes(), tmp_path / "cache")

    def forbidden(self):
        raise AssertionError("the file is read")

    monkeypatch.setattr("data.sources.stream_file.StreamFile.documents", forbidden)
    monkeypatch.setattr("data.sources.stream_file.StreamFile.digest", forbidden)
    assert open_store(source, Bytes(), tmp_path / "cache").folder == first.folder
    os.utime(source.path, (1, 1))
    with pytest.raises(AssertionError):
        open_store(source, Bytes(), tmp_path / "cache")


def test_one_relative_path_in_two_folders_is_two_sources(tmp_path, monkeypatch):
    """Files of one size and time of change, as archives with a fixed time unpack them, but of different content."""
    for folder, text in (("one", "aaaa"), ("other", "bbbb")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "corpus.txt").write_text(text)
        os.utime(tmp_path / folder / "corpus.txt", (1, 1))
        monkeypatch.chdir(tmp_path / folder)
        opened = open_store(Source("corpus.txt"), Bytes(), tmp_path / "cache")
        assert documents_of(opened.documents) == [list(text.encode())]


def test_a_folder_that_was_moved_is_found_by_its_content(tmp_path):
    (tmp_path / "one").mkdir()
    written(tmp_path / "one", ["one", "two"])
    first = open_store(Source(str(tmp_path / "one")), Bytes(), tmp_path / "cache")
    (tmp_path / "one").rename(tmp_path / "other")
    lines: list[str] = []
    assert open_store(Source(str(tmp_path / "other")), Bytes(), tmp_path / "cache", lines.append).folder == first.folder
    assert len(lines) == 1 and "comparing their content" in lines[0]
    assert find_store(tmp_path / "cache", first.fingerprint).folder == first.folder
    assert find_store(tmp_path / "cache", first.fingerprint | {"source": "0" * 64}) is None


CONTENTS = {  # how one content is read by the ending of its name
    '{"text": "one"}': {
        ".txt": '{"text": "one"}',
        ".jsonl": "one",
        ".json": "one",
        ".JSONL": "one",
        ".md": '{"text": "one"}',
    },
    "text\n1\t2\n": {".txt": "text\n1\t2\n", ".csv": "1\t2"},
    "text\tn\n1\t2\n": {".tsv": "1", ".TXT": "text\tn\n1\t2\n"},
}


def test_one_content_read_in_several_ways_makes_several_stores(tmp_path):
    for content, expected in CONTENTS.items():
        for ending, text in expected.items():
            path = tmp_path / f"a{ending}"
            path.write_text(content)
            store = open_store(Source(str(path)), Bytes(), tmp_path / "cache")
            assert bytes(store.documents.tokens[:].tolist()).decode() == text, ending


# What is refused


def test_records_that_can_not_be_read_are_left_out_and_counted_as_far_as_the_config_allows(tmp_path):
    lines = [json.dumps({"text": f"text {i}"}) for i in range(10)]
    lines[3], lines[7] = "{broken", json.dumps({"other": 1})
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    said: list[str] = []
    source = Source(str(tmp_path / "a.jsonl"), max_refused=0.2)
    store = open_store(source, Bytes(), tmp_path / "cache", said.append)
    assert [bytes(d).decode() for d in documents_of(store.documents)] == [
        f"text {i}" for i in range(10) if i not in (3, 7)
    ]
    assert store.manifest["refused"]["documents"] == 2 and "a.jsonl:4" in store.manifest["refused"]["reasons"][0]
    assert any("2 records (20.00%) are left out" in line for line in said)
    with pytest.raises(DataError, match=r"2 records .*a.jsonl:4.*max_refused=0.2"):
        open_store(Source(str(tmp_path / "a.jsonl"), max_refused=0.1), Bytes(), tmp_path / "cache")
    with pytest.raises(DataError, match=r"a.jsonl:4: not a JSON value"):
        open_store(Source(str(tmp_path / "a.jsonl")), Bytes(), tmp_path / "cache2")


def test_a_document_that_the_tokenizer_refuses_leaves_nothing_behind(tmp_path):
    source = written(tmp_path, ["fine", "naïve", "a fine vine"])
    with pytest.raises(DataError, match=r"a.jsonl:2: .*offset 2 is not among"):
        open_store(source, Characters("finea v"), tmp_path / "cache")
    assert manifests(tmp_path) == []
    allowed = Source(source.path, max_refused=0.5)
    store = open_store(allowed, Characters(" aefinv"), tmp_path / "cache")
    assert [Characters(" aefinv").decode(d) for d in documents_of(store.documents)] == ["fine", "a fine vine"]


def test_the_place_of_an_error_deep_in_a_long_text_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("ab " * 50_000 + "aé")
    with pytest.raises(DataError, match=r"a.txt from offset 131072: character 'é' .* at offset 18929 is not among"):
        open_store(Source(str(tmp_path / "a.txt")), Characters(" ab"), tmp_path / "cache")


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}\n'])
def test_text_without_a_token_makes_no_store(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"a.jsonl: (no text|every file|.*empty)"):
        open_store(Source(str(tmp_path / "a.jsonl")), Bytes(), tmp_path / "cache")
    assert manifests(tmp_path) == []


def test_a_text_that_changes_while_it_is_read_makes_no_store(tmp_path):
    """Else it would be found later under the fingerprint of what it was before."""
    path = tmp_path / "a.txt"
    path.write_text("some text")

    class Slow(Bytes):
        def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
            path.write_text("another text")
            return super().encode_array(text, continued)

    with pytest.raises(DataError, match=r"a.txt: changed while it was read; start again"):
        open_store(Source(str(path)), Slow(), tmp_path / "cache")
    assert manifests(tmp_path) == []


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cache: can't write the token cache .*SKALD_CACHE"):
        open_store(written(tmp_path, ["text"]), Bytes(), tmp_path / "cache")


@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 5])
def test_a_build_that_was_stopped_while_it_was_finished_goes_on(tmp_path, monkeypatch, stopped):
    source, calls, unlink = written(tmp_path, ["one", "two"]), itertools.count(), Path.unlink

    def failing(function):
        def called(*arguments, **named):
            if next(calls) == stopped:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **named)

        return called

    monkeypatch.setattr(writer, "join_arrays", failing(writer.join_arrays))
    monkeypatch.setattr(Path, "unlink", failing(unlink))
    with pytest.raises(DataError, match=r"\(No space left on device\); make room there and start again"):
        open_store(source, Bytes(), tmp_path / "cache")
    assert not list(tmp_path.glob("cache/stores/[!b]*"))
    monkeypatch.undo()
    monkeypatch.setattr("data.sources.stream_file.StreamFile.documents", None)  # is not read again
    store = open_store(source, Bytes(), tmp_path / "cache")
    assert [bytes(d) for d in documents_of(store.documents)] == [b"one", b"two"] and len(store.hashes) == 2
    assert not list(store.folder.glob("*.part"))


def test_where_no_record_can_be_read_the_first_reason_is_said(tmp_path):
    source = written(tmp_path, ["one", "two"])
    with pytest.raises(DataError, match=r"a.jsonl: none of its 2 records can be read .*a.jsonl:1: no field 'other'"):
        open_store(Source(source.path, "other", max_refused=1.0), Bytes(), tmp_path / "cache")


def test_a_store_that_was_cut_off_or_lost_a_file_is_not_read(tmp_path):
    source = written(tmp_path, ["some text", "more"])
    folder = open_store(source, Bytes(), tmp_path / "cache").folder
    tokens = folder / "tokens-00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"damaged token store \(tokens-00000.bin has 25 bytes, of 26\); remove it"):
        open_store(source, Bytes(), tmp_path / "cache")
    tokens.unlink()
    with pytest.raises(DataError, match=r"damaged token store .*tokens-00000.bin"):
        open_store(source, Bytes(), tmp_path / "cache")


# Where documents come from


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(1, 30))
def test_a_document_is_found_in_its_file_behind_what_was_left_out(tmp_path_factory, files, shard_tokens):
    """`files`: for each record of each file, whether it can be read."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "0.jsonl").write_text('{"text": "0 0"}\n')  # so that there is one document
    for number, readable in enumerate(files, 1):
        lines = [json.dumps({"text": f"{number} {i}"}) if good else "{" for i, good in enumerate(readable)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_TOKENS", shard_tokens)
        store = open_store(Source(str(folder), max_refused=1.0), Bytes(), folder / ".cache")
    for number, document in enumerate(documents_of(store.documents)):
        assert "{} {}".format(*store.origin(number)) == bytes(document).decode()
    assert sum(store.manifest["records_by_file"]) == 1 + sum(map(len, files))


# Shards, processes, and what is left of them

TEXTS = st.lists(st.text(st.sampled_from("abc é\n"), max_size=30), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 40), st.integers(1, 20), st.integers(1, 5))
def test_shards_batches_and_kills_change_nothing(tmp_path_factory, texts, shard_tokens, batch_characters, kill_after):
    """A build that is stopped behind any batch and started again makes the store of one that never was."""
    folder = tmp_path_factory.mktemp("store")
    source = written(folder, [*texts, "end"])
    whole = open_store(source, Ended(), folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_TOKENS", shard_tokens)
        patch.setattr(build, "BATCH_CHARACTERS", batch_characters)
        patch.setattr(build, "BATCH_EVENTS", 3)
        write, written_batches = writer.StoreWriter.write, itertools.count(1)

        def killed(self, events, encoded):
            if next(written_batches) % kill_after == 0:
                raise KeyboardInterrupt
            write(self, events, encoded)

        patch.setattr(writer.StoreWriter, "write", killed)
        for _ in range(3):
            try:
                open_store(source, Ended(), folder / "cache")
            except KeyboardInterrupt:
                continue
        patch.setattr(writer.StoreWriter, "write", write)
        pieces = open_store(source, Ended(), folder / "cache")
    assert documents_of(pieces.documents) == documents_of(whole.documents)
    assert pieces.fingerprint == whole.fingerprint and pieces.hashes.tolist() == whole.hashes.tolist()
    every = np.arange(len(whole.documents.tokens))
    assert pieces.documents.tokens[every].tolist() == whole.documents.tokens[every].tolist()
    assert pieces.documents.tokens[:].tolist() == whole.documents.tokens[:].tolist()


BUILD = """
import sys
from pathlib import Path
from data.config import Source
from data.store import build, cache, writer
from data.store.lock import held_lock
from data.store.store import open_store
from data.tokenizers.byte_level import Bytes
writer.SHARD_TOKENS = 1 << 18
build.PARALLEL_BYTES = 1
build.available_cores = lambda: 2
store = open_store(Source(sys.argv[1]), Bytes(), Path(sys.argv[2]), lambda line: print(line, flush=True))
print(store.documents.tokens[:].astype(int).sum(), len(store.documents), store.folder.name)
"""


def start_build(source: Source, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BUILD, source.path, str(cache)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_process_that_encodes_ends_silently_when_who_started_it_was_killed():
    """Whatever part of a message had come by then."""
    message = pickle.dumps(Bytes().to_json()) + pickle.dumps([np.zeros(100)])
    for cut in (0, 5, len(message) - 50):
        command = [sys.executable, "-m", "data.store.workers"]
        ended = subprocess.run(command, input=message[:cut], cwd=ROOT, capture_output=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.timeout(120)
def test_a_build_that_was_killed_goes_on_and_leaves_no_process(tmp_path):
    texts = [f"{i}: To be, or not to be, that is the question.\n" * 200 for i in range(2000)]
    source = written(tmp_path, texts)
    building = start_build(source, tmp_path / "cache")
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("tokens-00004.bin")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(building.pid).children()
    building.send_signal(signal.SIGKILL)
    building.wait()
    building.stdout.close()
    assert manifests(tmp_path) == []
    assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=20)[1], "they end with who started them"
    again = start_build(source, tmp_path / "cache")
    out, _ = again.communicate(timeout=100)
    assert "going on at" in out
    total, count, _ = out.splitlines()[-1].split()
    assert (int(total), int(count)) == (sum(sum(text.encode()) for text in texts), len(texts))


def make_one(path, cache, barrier, results):
    barrier.wait()
    documents = open_store(Source(path), Bytes(), Path(cache)).documents
    results.put((os.getpid(), int(documents.tokens[:].astype(np.int64).sum()), len(documents.tokens)))


@pytest.mark.timeout(120)
def test_processes_that_make_one_store_at_once_get_the_same(tmp_path):
    text = "To be, or not to be: that is the question.\n" * 50_000
    (tmp_path / "a.txt").write_text(text)
    processes = multiprocessing.get_context("spawn")
    barrier, results = processes.Barrier(4), processes.Queue()
    arguments = (str(tmp_path / "a.txt"), str(tmp_path / "cache"), barrier, results)
    workers = [processes.Process(target=make_one, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join(timeout=20)
    expected = (sum(text.encode()), len(text))
    assert len({pid for pid, *_ in found}) == 4 and {tuple(rest) for _, *rest in found} == {expected}
    assert len(manifests(tmp_path)) == 1


def test_a_lock_whose_file_is_removed_before_it_is_taken_is_not_held(tmp_path, monkeypatch):
    """`skald cache --prune` removes the file of a lock that it holds; another process may have opened it by then."""
    file, flock = tmp_path / "a.lock", fcntl.flock

    def removed_meanwhile(opened, operation):
        file.unlink()
        flock(opened, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with held_lock(file) as held:
        assert not held
    monkeypatch.undo()
    with held_lock(file) as first, held_lock(file) as second:
        assert first and not second


def test_a_store_that_is_removed_stays_readable_for_who_opened_it_and_does_not_come_back(tmp_path):
    store = open_store(written(tmp_path, ["some text", "more"]), Bytes(), tmp_path / "cache")
    cache.remove(store.folder)
    assert bytes(store.documents.tokens[:].tolist()) == b"some textmore"
    assert store.plans.array(["a"], lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert list((tmp_path / "cache" / "stores").glob("[!b]*")) == []


def test_every_document_of_a_source_is_in_its_store(tmp_path):
    """Against reading the source once more."""
    store = open_store(EMBEDDED, Bytes(), tmp_path)
    (text,) = (document.text for document in sources.read_documents(EMBEDDED))
    assert bytes(store.documents.tokens[:].tolist()).decode() == text
