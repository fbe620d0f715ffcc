"""What users get wrong is refused with one clear line and the right exit status, and nothing is lost."""

import hashlib
import platform
import shutil

import jax
import pytest

from launch import VERSION

pytestmark = pytest.mark.timeout(200)
HEADS_FIELD = "model.layers.0.pattern.0.mixer.heads"


def assert_refused(skald, status: int, *parts: str, arguments) -> str:
    """Runs the command, expects the exit status and one line (after progress lines) that holds all parts."""
    return assert_error_line(skald(*arguments), status, *parts)


def assert_error_line(result: tuple[int, str, str], status: int, *parts: str) -> str:
    returncode, out, err = result
    last = err.strip().splitlines()[-1]
    assert returncode == status, err
    assert last.startswith("skald: ") and "Traceback" not in err and not out
    assert all(part in last for part in parts), last
    return err


def digest(folder) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


BAD_CONFIGS = [
    (["nosuch"], ["no config 'nosuch'", "lstm, mixtral, sentiment, shakespeare, translate, vaswani"]),
    (["shakespear"], ["did you mean 'shakespeare'"]),
    (["gpt2"], ["needs a variant", "gpt2:small"]),
    (["gpt2:smal"], ["no variant 'smal'", "did you mean 'small'"]),
    (["nothere.py"], ["nothere.py: no such config file"]),
    (["shakespeare", "--set", "model.widht=3"], ["model.widht: no such field", "did you mean 'model.width'"]),
    (["shakespeare", "--set", "rate=3"], ["rate: no such field"]),
    (["shakespeare", "--set", "steps"], ["steps: write PATH=VALUE"]),
    (["shakespeare", "--set", "steps=many"], ["steps: expected an integer, got 'many'"]),
    (["shakespeare", "--set", "steps=1.5"], ["steps: expected an integer, got 1.5"]),
    (["shakespeare", "--set", "optimizer.peak_rate=NaN"], ["optimizer.peak_rate: must be finite"]),
    (["shakespeare", "--set", "data.packing=window"], ["data.packing", "did you mean 'windows'"]),
    (["shakespeare", "--set", f"{HEADS_FIELD}=6"], ["kv_heads: 4 does not divide heads=6", "[1, 2, 3, 6]"]),
    (["shakespeare", "--set", HEADS_FIELD.replace("heads", "window=0")], ["mixer.window: must be at least 1, or null"]),
    (["shakespeare", "--set", "model.vocab_size=64"], ["64 is smaller than the tokenizer's 65", "vocab_size=65"]),
    (["shakespeare", "--set", "batch_size=0"], ["batch_size: must be at least 1, got 0"]),
    (["shakespeare", "--set", "microbatches=5"], ["microbatches: 5 does not divide batch_size=12", "try 4"]),
    (["shakespeare", "--set", "data.length=65"], ["data.length: 65 is longer than model.context=64"]),
    (["shakespeare", "--set", "data.train.stop=1"], ["data.train: 0 to 1", "0.9 to 1 of it; set data.train.stop=0.9"]),
    (["shakespeare", "--set", "data.train.start=0.95"], ["data.train: must be", "start < stop", "got 0.95 to 0.9"]),
    (["shakespeare", "--set", "data.validation.stop=2"], ["data.validation: must be", "got 0.9 to 2"]),
    (["shakespeare", "--set", "data.tokenizer.end=nope"], ["start and .end name tokens", "not of characters"]),
    (["shakespeare", "--set", "data.tokenizer.start_prompts=true"], ["start_prompts: characters have no token"]),
    (["shakespeare", "--set", "mesh.tensor=300"], ["tensor=300", "sizes that multiply to 1"]),
    (["shakespeare", "--from", "nothere"], ["nothere: no such folder"]),
    (["shakespeare", "--seed", "-1"], ["seed: must be from 0 to 2**63 - 2, got -1"]),
    (["shakespeare", "--set", "mesh.data=-1"], ["mesh.data: must be at least 1, or 0 for the rest, got -1"]),
    (["shakespeare", "--set", "mesh.tensor=2"], ["vocab of size 65 does not divide over mesh tensor=2", "64 and 66"]),
    (["shakespeare", "--set", "mesh.context=2", "--set", "data.length=62"], ["time of size 62", "60 and 64"]),
    (["shakespeare", "--set", "execution.loss_chunks=3"], ["execution.loss_chunks=3", "63 and 66, or 2 parts"]),
    (["shakespeare", "--set", "execution.kernel=splash"], ["execution.kernel=splash runs on tpu and this is cpu"]),
    (["shakespeare", "--set", "execution.remat=qkv"], ["execution.remat: expected one of auto, none, minimal"]),
    (["shakespeare", "--set", "model.dropout=1"], ["model.dropout: must be from 0 to below 1, got 1"]),
    (["shakespeare", "--set", "optimizer.average=1.5"], ["optimizer.average: must be from 0 to below 1"]),
    (["shakespeare", "--set", "optimizer.clip=0"], ["optimizer.clip: must be above 0, or null, got 0"]),
    (["shakespeare", "--set", "optimizer.rule.adam.beta2=1"], ["optimizer.rule.adam.beta2: must be from 0"]),
    (["shakespeare", "--set", "evaluation.sampler=bogus"], ["evaluation.sampler", "no link 'bogus'"]),
    (["shakespeare", "--set", "evaluation.prompt=ü"], ["evaluation.prompt", "'ü'"]),
    (["shakespeare", "--set", "evaluation.rows=0"], ["evaluation.rows", "at least 1"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def results(skald) -> list:
    """Status, stdout and stderr of `skald train` with each of BAD_CONFIGS, none of which may make the run folder."""
    run = skald.folder / "refused"
    return skald.run_many([["train", *arguments, "--run-dir", run] for arguments, _ in BAD_CONFIGS])


@pytest.mark.parametrize("index", range(len(BAD_CONFIGS)), ids=lambda index: " ".join(BAD_CONFIGS[index][0]))
def test_a_config_that_can_not_be_is_refused_before_anything_is_made(skald, results, index):
    assert_error_line(results[index], 2, *BAD_CONFIGS[index][1])
    assert not (skald.folder / "refused").exists()


def test_in_a_process_of_its_own_too(fresh, tmp_path):
    assert_refused(fresh, 2, "no config 'nosuch'", arguments=["train", "nosuch", "--run-dir", tmp_path / "run"])


def test_text_that_can_not_be_trained_on(skald, tmp_path):
    empty, latin, short = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "short.txt"
    empty.write_bytes(b"")
    latin.write_bytes("naïve café".encode("latin-1"))
    short.write_text("To be, or not to be.")
    for file, parts in (
        (empty, ["the file is empty"]),
        (latin, ["not UTF-8 at byte 2 (0xef)"]),
        (short, ["fewer than a row of data.length=64"]),
        (tmp_path / "absent.txt", ["no such file"]),
    ):
        arguments = ["train", "shakespeare", "--run-dir", tmp_path / "run", "--set", f"data.source.path={file}"]
        assert_refused(skald, 1, str(file), *parts, arguments=arguments)
        assert not (tmp_path / "run").exists()
    assert latin.read_bytes() == "naïve café".encode("latin-1")


def test_a_run_of_another_config_is_not_touched(skald, trained_run):
    before = digest(trained_run)
    parts = ["holds another run", "data.length: 32 there, 16 here", "seed: 0 there, 5 here", "another --run-dir"]
    arguments = ["train", skald.config, "--run-dir", trained_run, "--seed", "5", "--set", "data.length=16"]
    assert_refused(skald, 1, *parts, arguments=arguments)
    assert digest(trained_run) == before


def test_a_run_folder_that_is_a_file_or_can_not_be_written(skald, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert_refused(skald, 2, f"{file} is a file", arguments=["train", skald.config, "--run-dir", file])
    assert file.read_text() == "mine"
    assert_refused(skald, 1, "can't write there", arguments=["train", skald.config, "--run-dir", "/proc/skald"])
    assert_refused(skald, 1, "can't write there", arguments=["train", skald.config, "--run-dir", file / "below"])


def test_a_read_only_run_folder(skald, trained_run, mount_disk):
    """Not even root may write there: neither a new run, nor the next steps of one that is there."""
    folder = mount_disk("size=50m")
    shutil.copytree(trained_run, folder / "run")
    before = digest(folder)
    mount_disk("ro")
    for options in (["--run-dir", folder / "new"], ["--run-dir", folder / "run", "--set", "steps=60"]):
        assert_refused(
            skald, 1, "can't write there (Read-only file system)", arguments=["train", skald.config, *options]
        )
    assert digest(folder) == before
    skald.json("evaluate", folder / "run")


def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(skald, mount_disk):
    """On a real file system too small for a checkpoint."""
    folder = mount_disk("size=700k")
    arguments = ["train", skald.config, "--run-dir", folder / "run", "--set", "checkpoints.keep_last=9"]
    err = assert_refused(skald, 1, "free some and start the same command again", arguments=arguments)
    assert len(err) < 2000, "no pages of tracebacks"
    mount_disk("size=50m")
    status, _, err = skald(*arguments)
    assert status == 0, err
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 40


BAD_REQUESTS = [
    (["--prompt", "x" * 40], 2, ["40 tokens", "trained on 32 at a time", "31 at most"]),
    (["--prompt", ""], 2, ["the prompt is empty"]),
    (["--prompt", "naïve"], 1, ["character 'ï' (U+00EF) at offset 2"]),
    (["--sampler", "top_q=3"], 2, ["no link 'top_q'", "did you mean 'top_p'"]),
    (["--sampler", "temperature=0"], 2, ["temperature is 0", "greedy"]),
    (["--prompts", "/nowhere.jsonl"], 1, ["/nowhere.jsonl"]),
    (["--out", "/nowhere.jsonl"], 2, ["--out writes JSON lines", "--prompts FILE"]),
    (["--prompts", "p.jsonl", "--out", "/nowhere.jsonl", "--json"], 2, ["without --json"]),
    (["--show-probabilities", "--json"], 2, ["--logprobs gives figures"]),
    (["--lookup", "4"], 2, ["drafts need a model", "a token shift"]),
    (["--draft", "no/run"], 2, ["no/run: no such folder"]),
]


def test_requests_that_can_not_be_written_to(skald, trained_run):
    results = skald.run_many([["generate", trained_run, *arguments] for arguments, _, _ in BAD_REQUESTS])
    for result, (_, status, parts) in zip(results, BAD_REQUESTS, strict=True):
        assert_error_line(result, status, *parts)


BAD_CHECKPOINTS = [
    ("@7", ["@7: no such checkpoint", "@20, @40, @latest, @best"]),
    ("@newest", ["no such checkpoint"]),
    ("x", ["trainedx: no such folder", "trained"]),
    ("/config.json", ["a file"]),
    ("/samples", ["no checkpoint in it"]),
]


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_checkpoints_that_are_not_there(skald, trained_run, command):
    results = skald.run_many([[command, f"{trained_run}{name}"] for name, _ in BAD_CHECKPOINTS])
    for result, (_, parts) in zip(results, BAD_CHECKPOINTS, strict=True):
        assert_error_line(result, 2, *parts)


def test_windows_and_texts_that_can_not_be_scored(skald, trained_run, tmp_path):
    for options in (["--window", "33"], ["--stride", "33"], ["--window", "8", "--stride", "9"]):
        assert_refused(
            skald, 2, "wanted 1 <= stride <= window <= context=32", arguments=["evaluate", trained_run, *options]
        )
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    arguments = ["evaluate", trained_run, "--text", tmp_path / "latin.txt"]
    assert_refused(skald, 1, "latin.txt: not UTF-8 at byte 3", arguments=arguments)
    (tmp_path / "new.txt").write_text("a naïve text")
    arguments = ["evaluate", trained_run, "--text", tmp_path / "new.txt"]
    assert_refused(skald, 1, "new.txt: character 'ï' (U+00EF) at offset 4", arguments=arguments)


def test_arguments_that_are_none_show_the_usage(skald):
    for arguments in ([], ["nonsense"], ["train"], ["generate", "x", "--num-samples", "0"], ["bench", "nothing"]):
        status, _, err = skald(*arguments)
        assert status == 2 and err.startswith("usage: skald")


def test_it_says_which_version_it_is(skald):
    status, out, _ = skald("--version")
    assert status == 0 and out == f"skald {VERSION} (jax {jax.__version__}, Python {platform.python_version()})\n"


def test_every_command_has_help_with_an_example(skald):
    for command in ("configs", "train", "generate", "evaluate", "prepare", "data", "cache", "bench"):
        status, out, _ = skald(command, "--help")
        assert status == 0 and f"example: skald {command}" in out


def test_debug_shows_where(skald):
    status, _, err = skald("train", "nosuch", "--debug")
    assert status == 2 and "Traceback" in err and "no config 'nosuch'" in err
