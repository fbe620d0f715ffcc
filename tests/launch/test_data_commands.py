"""`skald prepare`, `skald data`, `skald cache`: what they show is true, and what they can't do is said in one line."""

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from test_bad_input import assert_error_line, assert_refused

from data.store.progress import ProgressLine
from launch.arguments import argument_parser
from launch.cli import main
from launch.commands.progress import ProgressReport

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)

CONFIG = '''"""Answers and tales, mixed."""

from dataclasses import replace

from configs import shakespeare
from data.config import Mixture, Part, Source, Tokenizer
from train.config import Experiment

ANSWERS = Source("answers.jsonl", "a", prompt="q", max_refused=0.5)


def default() -> Experiment:
    base = shakespeare.default()
    source = Mixture((Part(ANSWERS, 3.0, "stop", "answers"), Part(Source("tales"), 1.0, "stop")))
    data = replace(base.data, source=source, tokenizer=Tokenizer("bytes"), length=48, packing="best_fit", split="hash")
    return replace(base, model=replace(base.model, vocab_size=0), data=data, batch_size=7)
'''
ANSWERS = [{"q": f"{i} + {i} = ", "a": f"{2 * i}, \\as\n{'you ' * (i % 2)}so. "} for i in range(80)]
BROKEN = (5, 17)  # of the answers
TALES = {f"tales/{i:02}.txt": f"Tale {i}. " + f"The {i}th cat sat.\n" * i for i in range(20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("mixture")
    lines = ["{broken" if i in BROKEN else json.dumps(answer) for i, answer in enumerate(ANSWERS)]
    (made / "answers.jsonl").write_text("\n".join(lines))
    (made / "tales").mkdir()
    for name, text in TALES.items():
        (made / name).write_text(text)
    (made / "mixed.py").write_text(CONFIG)
    return made


class InProcess:
    """Runs commands in this process, which has everything imported, in `folder` and with a cache in it."""

    def __init__(self, folder: Path, **environment: str):
        self.folder, self.environment = folder, {"SKALD_CACHE": str(folder / "cache"), **environment}

    def run_many(self, commands: list[list]) -> list[tuple[int, str, str]]:
        """Status, stdout and stderr of each command."""
        return [self.run([str(argument) for argument in command]) for command in commands]

    def run(self, command: list[str]) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            hooks = (
                (sys, "excepthook"),
                (sys, "unraisablehook"),
                (threading, "excepthook"),
                (warnings, "formatwarning"),
            )
            for owner, name in hooks:
                patch.setattr(owner, name, getattr(owner, name))  # `main` sets them
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                return main(command), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def mixture(folder) -> InProcess:
    """Runs commands in the folder of `mixed.py`."""
    return InProcess(folder)


@pytest.fixture
def alone(tmp_path) -> InProcess:
    """Runs commands in an empty folder, with an empty cache."""
    return InProcess(tmp_path)


def on_bytes(path, *settings: str) -> list[str]:
    """A config's name and settings: the bytes of a source."""
    changes = ["data.tokenizer.kind=bytes", "model.vocab_size=0", f"data.source.path={path}", *settings]
    return ["shakespeare", *(argument for change in changes for argument in ("--set", change))]


def json_of(runner, *commands: list) -> list:
    """The JSON that each command prints."""
    results = runner.run_many([[*command, "--json"] for command in commands])
    assert all(status == 0 for status, _, _ in results), results
    return [json.loads(out) for _, out, _ in results]


# skald prepare

PREPARE_WITHOUT_JAX = """
import sys
from launch.cli import main
status = main(sys.argv[1:])
assert not {"jax", "flax", "torch"} & set(sys.modules)
sys.exit(status)
"""


def test_prepare_makes_what_the_rows_need_without_jax_and_says_what_is_there(mixture, folder):
    command = [sys.executable, "-c", PREPARE_WITHOUT_JAX, "prepare", "mixed.py", "--json"]
    environment = {**os.environ, **mixture.environment, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    prepared = json.loads(ended.stdout)
    answers, tales = prepared["sources"]
    texts = {
        "answers": [a["q"] + a["a"] for i, a in enumerate(ANSWERS) if i not in BROKEN],
        "tales": list(TALES.values()),
    }
    for source in (answers, tales):
        own = texts[source["name"]]
        assert source["documents"] == len(own) and source["tokens"] == sum(map(len, own))
        for unit in ("documents", "tokens"):
            assert source["training"][unit] + source["validation"][unit] == source[unit]
        on_disk = sum(file.stat().st_size for file in Path(source["folder"]).rglob("*") if file.is_file())
        assert source["bytes_on_disk"] == on_disk and source["made"] and source["duplicates"] == 0
        packing, split = source["packing"], source["training"]
        places = packing["rows_per_epoch"] * packing["length"]
        assert packing["padding"] == pytest.approx(1 - (split["tokens"] - split["documents"]) / places)
    assert answers["bytes"] == sum(len(a["a"]) for i, a in enumerate(ANSWERS) if i not in BROKEN)
    assert answers["refused"]["documents"] == 2 and "answers.jsonl:6: " in answers["refused"]["reasons"][0]
    sizes = {s["name"]: s["bytes_of_source"] for s in prepared["sources"]}
    assert sizes["tales"] == sum(map(len, TALES.values())) and prepared["bytes_read"] == sum(sizes.values())
    assert prepared["tokenizer"] == {"kind": "bytes", "vocab_size": 256}


def test_a_second_call_reads_nothing_and_so_does_what_comes_behind(mixture):
    json_of(mixture, ["prepare", "mixed.py"])
    files = sorted((mixture.folder / "cache").rglob("*"))
    assert any("plans" in file.parts for file in files)
    commands = ["prepare", "mixed.py"], ["prepare", "mixed.py", "--json"], ["data", "mixed.py", "--step", "0"]
    shown, again, _ = results = mixture.run_many(commands)
    assert all(status == 0 and "tokenizing" not in err for status, _, err in results)
    assert sorted((mixture.folder / "cache").rglob("*")) == files
    assert json.loads(again[1])["bytes_read"] == 0
    assert not any(source["made"] for source in json.loads(again[1])["sources"])
    lines = shown[1].splitlines()
    assert lines[0] == "answers: answers.jsonl" and lines[-1].startswith("all of it was there already, in ")
    assert "  left out    2 records, of which the first:\n              answers.jsonl:6: " in shown[1]


def test_a_line_of_progress_takes_the_place_of_the_one_before_it_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    lines = ["begins", ProgressLine("1 of 9"), ProgressLine("2 of 9, " + "far " * 9), "ends", ProgressLine("3 of 9")]
    for on_terminal, shown in (
        (False, [*lines]),
        (True, ["begins", "1 of 9", "\x1b[F\x1b[K2 of 9, far far far far far f", "ends", "3 of 9"]),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda on_terminal=on_terminal: on_terminal)
        report = ProgressReport()
        for line in lines:
            report(line)
        assert capsys.readouterr().err == "".join(f"{line}\n" for line in shown)


def test_a_validation_source_of_its_own_and_what_is_doubled_in_it(alone, tmp_path):
    texts = [f"text {i}" for i in range(9)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "valid.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ["new", *texts[:3]]))
    config = on_bytes("train.jsonl", "data.length=8", "data.validation_source.path=valid.jsonl")
    drop = ["--set", "data.drop_duplicates=true"]
    shown = alone.run_many(
        [["prepare", *config, "--json"], ["prepare", *config, *drop, "--json"], ["prepare", *config]]
    )
    for (_, out, _), left in zip(shown, (9, 6), strict=False):
        training, validation = json.loads(out)["sources"]
        assert (training["duplicates"], training["training"]["documents"]) == (3, left)
        assert "validation" not in training
        assert validation["path"] == "valid.jsonl" and validation["validation"] == {"documents": 4, "tokens": 21}
        assert "packing" not in validation
    assert "  duplicates  3 documents of training in validation, too" in shown[2][1]


def test_token_ids_are_prepared_and_shown_as_numbers(alone, tmp_path):
    lines = [json.dumps({"text": list(range(i, i + 20))}) for i in range(20)]
    (tmp_path / "ids.jsonl").write_text("\n".join(lines))
    kind = ["data.tokenizer.kind=ids", "data.tokenizer.vocab_size=40", "data.length=19", "data.packing=padding"]
    config = on_bytes("ids.jsonl", *kind)
    prepared, shown = json_of(alone, ["prepare", *config], ["data", *config, "--step", 1])
    assert prepared["sources"][0]["tokens"] == 400
    for row in shown["rows"]:
        assert row[0]["text"].split() == [str(row[0]["document"] + i) for i in range(19)]


# skald data


def test_rows_are_the_documents_that_they_name(mixture):
    """With bytes as tokens the text of a part says its tokens: the digest is of what is shown."""
    for shown in json_of(mixture, *(["data", "mixed.py", "--step", step] for step in (0, 3, 11))):
        tokens, segments = [], set()
        for row in shown["rows"]:
            assert sum(part["tokens"] for part in row) == 48
            for part in row:
                segments.add(part["segment"])
                tokens += part["text"].encode() if part["segment"] else [0] * part["tokens"]
                if not part["segment"]:
                    assert part["weight"] == 0 and part["document"] is None and part is row[-1]
                elif part["source"] == "answers":
                    answer = ANSWERS[part["record"]]
                    assert (answer["q"] + answer["a"])[part["start"] : part["stop"]] == part["text"]
                    assert part["weight"] == (part["start"] >= len(answer["q"])) and part["file"] == "answers.jsonl"
                    assert part["document"] == part["record"] - sum(i < part["record"] for i in BROKEN)
                else:
                    assert TALES[part["file"]][part["start"] : part["stop"]] == part["text"] and part["record"] == 0
        assert len(shown["rows"]) == 7 and len(segments) > 2
        assert shown["sha256"] == hashlib.sha256(np.array(tokens, "<i4").tobytes()).hexdigest()


def test_any_number_of_hosts_reads_the_same_rows(mixture):
    command, counts = ["data", "mixed.py", "--step", 2], (1, 2, 3, 7, 12)
    *shown, other = json_of(mixture, *([*command, "--hosts", hosts] for hosts in counts), [*command, "--seed", 5])
    assert len({each["sha256"] for each in shown}) == 1 and all(each["rows"] == shown[0]["rows"] for each in shown)
    for each, hosts in zip(shown, counts, strict=True):
        sizes = [stop - start for start, stop in each["hosts"]]
        assert len(sizes) == hosts and sum(sizes) == 7 and max(sizes) - min(sizes) <= 1
        assert [start for start, _ in each["hosts"]] == [0, *(stop for _, stop in each["hosts"])][:-1]
    assert other["sha256"] != shown[0]["sha256"] and len(other["rows"]) == 7


def test_epochs_grow_with_the_steps_to_the_end_of_sources_that_stop(mixture):
    command, line = ["data", "mixed.py", "--step"], "every source of the mixture has ended after "
    *shown, prepared = json_of(mixture, *([*command, step] for step in (0, 5)), ["prepare", "mixed.py"])
    before, later = (each["epochs"] for each in shown)
    assert set(before.values()) == {0.0} and 0 < later["tales"] < later["answers"]
    rows = sum(source["packing"]["rows_per_epoch"] for source in prepared["sources"])
    last, over = mixture.run_many([[*command, rows // 7 - 1, "--json"], [*command, rows // 7]])
    assert len(json.loads(last[1])["rows"]) == 7
    assert_error_line(over, 1, f"{line}{rows} rows; let one of them repeat")


def test_a_person_sees_rows_that_fit_the_terminal(mixture):
    narrow = InProcess(mixture.folder, COLUMNS="40")
    command = ["data", "mixed.py", "--step", "1", "--hosts", "3", "--rows", "4"]
    (status, out, _), (_, full, _) = narrow.run_many([command, [*command, "--full"]])
    assert status == 0 and out.startswith("step 1: 7 rows of 48 tokens")
    assert [line for line in out.splitlines() if line.startswith("row ")] == [
        f"row {i}: {source}, host {host}"
        for i, source, host in zip(range(4), sources_of(out), (0, 0, 1, 1), strict=True)
    ]
    texts = [line for line in out.splitlines() if line.startswith("    ")]
    assert texts and max(map(len, texts)) == 40 and any(text.endswith("…") for text in texts)
    assert "  1  [no weight] document" in out and "[padding: " in out and "\\\\as\\n" in out
    assert "…" not in full and len(full) > len(out)


def sources_of(page: str) -> list[str]:
    return [line.split()[2].rstrip(",") for line in page.splitlines() if line.startswith("row ")]


# skald cache


def test_the_cache_is_listed_and_what_nobody_needs_is_removed(mixture, folder, tmp_path):
    json_of(mixture, ["prepare", "mixed.py"])
    cache = tmp_path / "cache"
    subprocess.run(["cp", "-r", folder / "cache", cache], check=True)
    runner = InProcess(folder, SKALD_CACHE=str(cache))
    stores = sorted((cache / "stores").glob("*-*/manifest.json"))
    held, free = cache / "stores/building-held", cache / "stores/building-free"
    old, mine, half = (
        cache / "stores" / ("0" * 32),
        cache / "stores/mine",
        stores[0].parent / "plans/a.unfinished-b.npy",
    )
    young = stores[0].parent / "plans/c.unfinished-d.npy"
    for path in (held, free, old, mine):
        path.mkdir()
        (path / "tokens").write_bytes(bytes(1000))
    half.write_bytes(bytes(10))
    young.write_bytes(bytes(10))
    os.utime(half, (1, 1))
    days_ago = time.time() - 3.5 * 86400
    os.utime(stores[0], (days_ago, days_ago))
    (cache / "compiled").mkdir()
    (cache / "compiled" / "program").write_bytes(bytes(77))
    with held.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (listed,), ((_, page, _), (_, removed, _)) = (
            json_of(runner, ["cache"]),
            runner.run_many([["cache"], ["cache", "--prune", "--json"]]),
        )
        assert {s["source"]: s["tokenizer"] for s in listed["stores"]} == {"answers.jsonl": "bytes", "tales": "bytes"}
        assert sum(s["tokens"] for s in listed["stores"]) == sum(json.loads(s.read_text())["tokens"] for s in stores)
        assert {Path(b["folder"]).name: b["running"] for b in listed["unfinished"]} == {
            "building-free": False,
            "building-held": True,
        }
        assert {Path(entry["path"]).name for entry in listed["leftovers"]} == {old.name, half.name}
        assert listed["compiled"]["bytes"] == 77 and listed["bytes"] > 3000
        assert "3 days ago" in page and "just now" in page and "a process works on it" in page and "1.00 kB" in page
        removed = json.loads(removed)["removed"]
    assert {Path(entry["path"]).name for entry in removed} == {free.name, old.name, half.name}
    assert sum(entry["bytes"] for entry in removed) == 2010
    assert held.exists() and mine.exists() and young.exists() and all(store.exists() for store in stores)
    assert not (free.exists() or old.exists() or half.exists())
    (_, out, _), (_, nothing, _), (_, prepared, _) = runner.run_many(
        [["cache", "--prune", "--older-than", "3"], ["cache", "--prune"], ["prepare", "mixed.py", "--json"]]
    )
    assert f"removed {stores[0].parent.name}: " in out and "used 3 days ago" in out
    assert not held.exists(), "nobody holds its lock by now"
    assert nothing.startswith("nothing to remove")
    assert [source["made"] for source in json.loads(prepared)["sources"]].count(True) == 1, "the one that was removed"
    free_locks = {f"{free.name}.lock", f"{held.name}.lock"}
    assert not free_locks & {path.name for path in (cache / "stores").iterdir()}


def test_a_store_that_was_opened_is_used(mixture):
    json_of(mixture, ["prepare", "mixed.py"])
    for manifest in (mixture.folder / "cache").rglob("manifest.json"):
        os.utime(manifest, (1, 1))
    _, listed = json_of(mixture, ["data", "mixed.py", "--step", "0"], ["cache"])
    assert min(store["used"] for store in listed["stores"]) > time.time() - 60


def test_an_empty_cache_is_listed_too(alone):
    page, pruned = alone.run_many([["cache"], ["cache", "--prune", "--json"]])
    assert page == (0, f"in all: 0 bytes in {alone.folder / 'cache'}\n", "")
    assert json.loads(pruned[1])["removed"] == []


def test_an_empty_variable_means_the_default_cache(tmp_path):
    unset = InProcess(tmp_path, HOME=str(tmp_path), SKALD_CACHE="")
    assert unset.run(["cache"]) == (0, f"in all: 0 bytes in {tmp_path}/.cache/skald\n", "")


# What can't be done


def bad_sources(folder: Path) -> list[tuple[list, int, list[str]]]:
    """Arguments, exit status, and parts of the line."""
    (folder / "ids.jsonl").write_text('{"text": [1, 2, 3]}\n{"text": [1, 2, 99]}\n')
    pyarrow.parquet.write_table(pyarrow.table({"story": ["a" * 100]}), folder / "a.parquet")
    packed = gzip.compress("".join(json.dumps({"text": f"text {i * i}"}) + "\n" for i in range(5000)).encode())
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    flipped = bytearray(packed)
    flipped[-5] ^= 1  # of the checksum: a bit further in front may make a bad record first
    (folder / "flipped.jsonl.gz").write_bytes(flipped)
    with (folder / "long.jsonl").open("w") as file:
        file.write('{"text": "' + "a" * 70_000_000 + '"}\n')
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (folder / "mixed.py").write_text(CONFIG)
    ids = on_bytes("ids.jsonl", "data.tokenizer.kind=ids", "data.tokenizer.vocab_size=50")
    weights = "data.source.parts.0.weight", "data.source.parts.1.weight"
    return [
        (["prepare", "nosuch"], 2, ["no config 'nosuch'"]),
        (["prepare", "mixed.py", "--set", f"{weights[0]}=-1"], 2, ["weights of 0 or more, got -1, 1"]),
        (["data", "mixed.py", "--step", 0, "--set", f"{weights[0]}=0", "--set", f"{weights[1]}=0"], 2, ["above 0"]),
        (["prepare", *on_bytes("gone.txt")], 1, ["gone.txt: no such file"]),
        (["data", *on_bytes("gone.txt"), "--step", 0], 1, ["gone.txt: no such file"]),
        (["prepare", *on_bytes("bad.jsonl")], 1, ["bad.jsonl:2: not a JSON value"]),
        (["prepare", *on_bytes("bad.jsonl", "data.source.prompt=text")], 2, ["data.source.prompt", "another", "text"]),
        (["prepare", *on_bytes("a.parquet")], 1, ["a.parquet: no column 'text'", "'story'", "data.source.field"]),
        (["prepare", *on_bytes("cut.jsonl.gz")], 1, ["cut.jsonl.gz: gzip data cut off at byte"]),
        (["prepare", *on_bytes("flipped.jsonl.gz")], 1, ["flipped.jsonl.gz: gzip data damaged"]),
        (["prepare", *on_bytes("long.jsonl")], 1, ["long.jsonl:1: a line of more than 64 MiB"]),
        (["prepare", *ids], 1, ["ids.jsonl:2: id 99 at index 2 is none of the tokenizer's, 0 to 49"]),
        (["prepare", *ids, "--set", "model.vocab_size=9"], 2, ["9 is smaller than the tokenizer's 50"]),
        (["cache", "--older-than", 3], 2, ["--older-than", "--prune", "give both"]),
    ]


def test_what_can_not_be_prepared_is_said_in_one_line_and_leaves_no_store(alone, tmp_path):
    cases = bad_sources(tmp_path)
    results = alone.run_many([arguments for arguments, _, _ in cases])
    for result, (_, status, parts) in zip(results, cases, strict=True):
        assert_error_line(result, status, *parts)
    assert not list((tmp_path / "cache").rglob("manifest.json"))


def test_arguments_that_are_none_show_the_usage(capsys):
    for arguments in (
        ["prepare"],
        ["data", "shakespeare"],
        ["data", "shakespeare", "--step", "-1"],
        ["data", "shakespeare", "--step", "0", "--hosts", "0"],
        ["data", "shakespeare", "--step", "0", "--rows", "0"],
        ["cache", "--prune", "--older-than", "-1"],
        ["cache", "--prune", "--older-than", "nan"],
    ):
        with pytest.raises(SystemExit) as ended:
            argument_parser().parse_args(arguments)
        assert ended.value.code == 2 and capsys.readouterr().err.startswith(f"usage: skald {arguments[0]}")


@pytest.mark.parametrize("size", ["40k", "840k"], ids=["while tokens are written", "while a store is finished"])
def test_a_disk_that_is_full_is_said_and_the_next_call_goes_on(skald, tmp_path, mount_disk, size):
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n' * 20_000)
    disk = mount_disk(f"size={size}")
    runner = skald.with_environment(SKALD_CACHE=str(disk / "cache"))
    config = on_bytes(tmp_path / "a.jsonl", "data.split=position", "data.packing=padding")
    parts = ["can't write the token cache (No space left on device)", "make room there and start again"]
    assert_refused(runner, 1, *parts, arguments=["prepare", *config])
    assert not list(disk.rglob("manifest.json"))
    mount_disk("size=20m")
    (source,) = runner.json("prepare", *config)["sources"]
    assert source["made"] and (source["documents"], source["tokens"]) == (20_000, 40_000)
