"""`skald evaluate --watch`: real processes beside a real training, and what happens to checkpoints meanwhile."""

import json
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from launch.inference import watch as watching
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.evaluations_file import EvaluationsFile
from launch.inference.scoring import TextReader, evaluate_texts, scoring_windows
from launch.inference.watch import Watch
from train.checkpoint import read_weights
from train.checkpoint_folder import DamagedCheckpoint, checkpoint_digest, find_checkpoint
from train.fields import ConfigError
from train.run import RunError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch, skald):
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])


@pytest.fixture
def run(run_copy) -> Path:
    """A finished run with checkpoints of the steps 10, 20 and 40, the first two alike but for their step."""
    shutil.copytree(run_copy / "checkpoints" / "20", run_copy / "checkpoints" / "10")
    change_metadata(run_copy, 10, step=10)
    return run_copy


def change_metadata(run: Path, number: int, **values) -> None:
    file = run / "checkpoints" / str(number) / "about" / "metadata"
    metadata = json.loads(file.read_text())
    (file.parent / "new").write_text(json.dumps(metadata | values))
    (file.parent / "new").replace(file)


def load_nothing(name: str) -> SimpleNamespace:
    """A checkpoint without its arrays."""
    run, step = name.split("@")
    folder = Path(run) / "checkpoints" / step
    return SimpleNamespace(step=int(step), folder=folder, digest=checkpoint_digest(folder))


def steps_scored(run: Path, evaluated=(), during=lambda step: None, load=load_nothing) -> tuple[list[int], list[str]]:
    """The steps that a watch scores, in order, and its lines. `during` is called with each step while it is scored."""

    def evaluate(checkpoint) -> dict:
        during(checkpoint.step)
        return {"step": checkpoint.step}

    lines: list[str] = []
    file = EvaluationsFile(run / "evaluations.jsonl", {"text": None, **dict(evaluated)})
    return [scores["step"] for scores in Watch(run, file, load, evaluate, lines.append)], lines


def test_what_is_scored_stays_scored_and_what_is_another_checkpoint_or_text_does_not(run):
    assert steps_scored(run) == ([10, 20, 40], [])
    file = run / "evaluations.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-9])  # torn by a kill
    assert steps_scored(run)[0] == [40] and file.read_text() == whole
    change_metadata(run, 20, scores={"eval/loss": 1.0})  # known later: the same weights
    assert steps_scored(run)[0] == []
    change_metadata(run, 20, saved=0.0)  # as a run that rolled back writes it anew
    assert steps_scored(run)[0] == [20]
    assert steps_scored(run, {"text": "another.txt"})[0] == [10, 20, 40]
    assert steps_scored(run)[0] == []
    own = EvaluationsFile(file, {"text": None})
    assert [line["step"] for line in own.lines()] == [10, 20, 40, 20]
    assert [line["step"] for line in own.by_step()] == [10, 20, 40] and own.by_step()[1] == own.lines()[-1]
    file.write_text(whole + '{"step": 3}\n' + whole)
    with pytest.raises(RunError, match=r"evaluations.jsonl holds a line that is no evaluation; move it away"):
        steps_scored(run)
    file.unlink()
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        steps_scored(run, during=lambda step: pytest.fail("scored before its file can be written"))


def test_a_checkpoint_that_is_deleted_before_its_turn_is_passed_over_with_a_line(run, monkeypatch):
    """All of it, or first a part: as the trainer's rotation does while another one is scored."""

    def delete(step: int) -> None:
        if step == 10:
            shutil.rmtree(run / "checkpoints" / "20")

    scored, lines = steps_scored(run, during=delete)
    assert scored == [10, 40]
    assert lines == [f"{run}: checkpoint 20 was deleted before it was scored; it is passed over"]

    def load(name: str) -> SimpleNamespace | LoadedCheckpoint:
        """Finds step 10 half deleted; the next look does not find it any more."""
        if not name.endswith("@10"):
            return load_nothing(name)
        (run / "checkpoints" / "10" / "model" / "manifest.ocdbt").unlink()
        threading.Timer(0.1, shutil.rmtree, [run / "checkpoints" / "10"]).start()
        return LoadedCheckpoint(name)

    monkeypatch.setattr(watching, "POLL_SECONDS", 1.0)
    (run / "evaluations.jsonl").unlink()
    scored, lines = steps_scored(run, load=load)
    assert scored == [40]
    assert lines == [f"{run}: checkpoint 10 was deleted before it was scored; it is passed over"]


def test_a_checkpoint_whose_weights_vanish_as_it_is_read_is_a_damaged_one(run):
    checkpoint = find_checkpoint(f"{run}@10")
    shutil.rmtree(checkpoint.folder / "model")
    with pytest.raises(DamagedCheckpoint, match="checkpoints/10: no weights in it; take another checkpoint"):
        read_weights(checkpoint, None)


def test_what_can_not_be_read_or_has_no_finite_loss_is_left_out_and_the_others_are_scored(skald, run):
    model = run / "checkpoints" / "10" / "model"
    largest = max((p for p in model.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    model, checkpointer = run / "checkpoints" / "20" / "model", ocp.StandardCheckpointer()
    spoiled = {name: np.full_like(x, np.nan) for name, x in checkpointer.restore(model).items()}
    shutil.rmtree(model)
    checkpointer.save(model, spoiled)
    checkpointer.wait_until_finished()
    status, out, err = skald("evaluate", run, "--watch", "--json")
    assert status == 1, err
    assert [line["step"] for line in json.loads(out)] == [40], err
    assert f"{run}/checkpoints/10/model: can't be read (OUT_OF_RANGE: " in err and "); it is left out" in err
    assert not re.search("Traceback|Exception ignored|never retrieved", err), err  # of the arrays behind the first
    assert "at step 20: its loss is nan; some of its weights are no finite numbers" in err
    assert err.splitlines()[-1] == f"skald: not scored: {run}@20, {run}@10", err


def test_what_is_wrong_with_all_checkpoints_ends_a_watch(skald, run, tmp_path):
    commands = [[f"{run}@20"], [run / "config.json"], [run, "--text", tmp_path / "none.txt"], [run, "--window", 500]]
    commands += [[run, "--examples", tmp_path / "examples.jsonl"], [run, "--weights", "average"]]
    expected = ["--watch follows a whole run; name its folder without @", "a file; --watch follows a run's folder",
                "none.txt: no such file", "window 500, stride 500: wanted", "--examples with --watch",
                "no average weights in it"]  # fmt: skip
    results = skald.run_many([["evaluate", *command, "--watch"] for command in commands])
    assert [status for status, _, _ in results] == [2, 2, 1, 2, 2, 2], results
    for (_, _, err), line in zip(results, expected, strict=True):
        assert line in err.splitlines()[-1]
    assert not lines_of(run / "evaluations.jsonl")
    for step in (10, 20, 40):
        change_metadata(run, step, config=None)
    with pytest.raises(ConfigError, match="was imported: no training adds checkpoints; evaluate it without --watch"):
        steps_scored(run)


def test_a_second_checkpoint_compiles_nothing_and_leaves_nothing_in_memory(run):
    compiled, sizes, read, texts = [], [], [], TextReader(None, None)

    def listen(name: str, _, **__) -> None:
        compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def evaluate(checkpoint: LoadedCheckpoint) -> dict:
        sizes.append(sum(x.nbytes for x in jax.live_arrays()))
        checkpoint.decoder = [checkpoint]  # as a decoder's parts refer to each other
        read.append(texts(checkpoint))
        scores = evaluate_texts(checkpoint, read[-1], *scoring_windows(checkpoint, None, None)).metrics
        return scores | {"compiled": sum("backend_compile" in name for name in compiled)}

    file = EvaluationsFile(run / "evaluations.jsonl", {})
    try:
        lines = list(Watch(run, file, lambda name: LoadedCheckpoint(name, quantize="int4"), evaluate, print))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert lines[0]["compiled"] == lines[1]["compiled"] == lines[2]["compiled"] > 0
    assert sizes[0] == sizes[1] == sizes[2] and read[0] is read[1] is read[2]


def test_tasks_are_scored_with_every_checkpoint(skald, run, tmp_path):
    """Their examples are part of what was evaluated: another number of them is another evaluation."""
    (tmp_path / "q.jsonl").write_text('{"text": "the king"}\n{"text": "my love"}\n')
    template = "{{ text[:4] }}{% generation %}{{ text[4:] }}{% endgeneration %}"
    (tmp_path / "end.toml").write_text(f'data = "q.jsonl"\ntemplate = "{template}"\nmetric = "cloze"\n')
    options = ["evaluate", run, "--watch", "--tasks", tmp_path / "end.toml"]
    lines = skald.json(*options)
    assert [line["tasks"]["end"]["examples"] for line in lines] == [2, 2, 2] and lines[0]["loss"] > lines[2]["loss"]
    assert skald.json("evaluate", f"{run}@20", *options[3:])["tasks"] == lines[1]["tasks"]
    assert skald.json(*options) == lines and lines_of(run / "evaluations.jsonl") == 3
    assert [line["tasks"]["end"]["examples"] for line in skald.json(*options, "--set", "end.limit=1")] == [1, 1, 1]


def test_a_watch_of_a_run_that_publishes_nothing_more_gives_up_when_it_was_told_to(skald, run):
    """The wait counts from the last checkpoint, however long scoring takes."""
    config = run / "config.json"
    config.write_text(config.read_text().replace('"steps": 40', '"steps": 80'))

    def evaluate_slowly(checkpoint) -> dict:
        time.sleep(0.4)
        return {"step": checkpoint.step}

    file = EvaluationsFile(run / "evaluations.jsonl", {})
    lines, started = iter(Watch(run, file, load_nothing, evaluate_slowly, print, timeout=0.3)), time.monotonic()
    assert [next(lines)["step"] for _ in range(3)] == [10, 20, 40]
    with pytest.raises(RunError, match="scored up to step 40 of 80; no new checkpoint for 0"):
        next(lines)
    assert time.monotonic() - started > 3 * 0.4 + 0.3
    (gave_up, out, err), unasked = skald.run_many(
        [["evaluate", run, "--watch", "--json", "--timeout", "0.1"], ["evaluate", run, "--timeout", "5"]]
    )
    assert gave_up == 1 and [line["step"] for line in json.loads(out)] == [10, 20, 40], err
    assert err.splitlines()[-1] == f"skald: {run}: scored up to step 40 of 80; no new checkpoint for 0.1 s"
    assert unasked[0] == 2 and "give it with --watch" in unasked[2]


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)


def wait_for_line(process, text: str) -> None:
    """Reads the lines of a process's standard error up to the one that holds a text."""
    wait_until(lambda: text in process.stderr.readline(), process)


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def test_a_watch_beside_a_training_killed_and_started_again_scores_every_checkpoint_once(skald, tmp_path):
    """Started before the run's folder is there; the scores are those of `skald evaluate RUN@STEP`."""
    from launch.api import load

    run = tmp_path / "run"
    file, processes = run / "evaluations.jsonl", []
    options = ["--set", "checkpoints.every=8", "--set", "checkpoints.keep_last=9", "--set", "evaluation.samples=0"]
    try:
        processes.append(first := skald.start("evaluate", run, "--watch"))
        wait_for_line(first, "no such folder yet; waiting for the next checkpoint")
        processes.append(training := skald.start("train", skald.config, "--run-dir", run, *options))
        wait_until(lambda: lines_of(file), first)
        first.kill()
        assert training.wait(100) == 0, training.stderr.read()
        with file.open("a") as torn:
            torn.write('{"step": 9')
        scored = lines_of(file)
        processes.append(second := skald.start("evaluate", run, "--watch", "--json"))
        out, err = second.communicate(timeout=100)
    finally:
        for process in processes:
            process.kill()
            process.wait(20)
    assert second.returncode == 0 and "steps 8" in err, err
    assert err.count("nats a token") == 5 - scored
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert json.loads(out) == written and [line["step"] for line in written] == [8, 16, 24, 32, 40]
    for line in written:
        assert {**line, **load(f"{run}@{line['step']}").evaluate()} == line


def test_a_signal_ends_a_watch_with_75_and_what_it_has_is_written_down(skald, run):
    """Of a run that was stopped before its last step, and is expected to go on."""
    config = run / "config.json"
    config.write_text(config.read_text().replace('"steps": 40', '"steps": 80'))
    process = skald.start("evaluate", run, "--watch", "--json")
    try:
        wait_for_line(process, "scored up to step 40 of 80; waiting")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75 and "stopped by SIGTERM; what is scored is in" in err, err
    assert [line["step"] for line in json.loads(out)] == [10, 20, 40]
