"""RUN/card.json of real runs: against a watch, against metrics.jsonl, and over kill -9."""

import json
import signal
import time

import orbax.checkpoint as ocp
import pytest

from model import cost
from train.goodput import KINDS

pytestmark = pytest.mark.timeout(400)
TOKENS = 8 * 32  # of a step of the tiny config


def read(folder) -> dict:
    return json.loads((folder / "card.json").read_text())


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def seconds_of(lines: list[dict]) -> float:
    return sum(TOKENS / line["tokens_per_second"] for line in lines)


def kinds(card: dict) -> float:
    return sum(card["goodput"][kind] for kind in (*KINDS, "other"))


def test_the_card_of_a_run_is_what_a_watch_and_its_metrics_say(trained_run):
    """From its start to the time of its file, to a second. Steps, compiling and waiting are the seconds of all lines,
    and what was compiled outside the loop."""
    card, lines = read(trained_run), metrics(trained_run)
    spent, (attempt,) = card["goodput"], card["attempts"]
    written = (trained_run / "card.json").stat().st_mtime
    assert attempt["began"] + card["wall_seconds"] == pytest.approx(written, abs=1) and attempt["ended"] == "done"
    assert kinds(card) == pytest.approx(card["wall_seconds"], abs=1e-6) and min(spent.values()) >= 0
    assert 0 < spent["step"] < seconds_of(lines) < spent["step"] + spent["data"] + spent["compile"]
    assert spent["data"] > sum(line["data_wait"] * TOKENS / line["tokens_per_second"] for line in lines) - 0.01
    assert spent["evaluation"] > 0 and spent["save"] > 0 and spent["lost"] == 0
    assert spent["goodput"] == spent["step"] / card["wall_seconds"]
    assert (card["steps"], card["tokens"]) == (lines[-1]["step"], lines[-1]["tokens"]) == (40, 40 * TOKENS)
    saved = ocp.StandardCheckpointer().restore(trained_run / "checkpoints" / "40" / "model")
    assert card["parameters"] == sum(array.size for array in saved.values())
    assert card["flops"]["formula"] == 6 * card["parameters"] * card["tokens"]
    assert card["device"]["hours"] == pytest.approx(card["wall_seconds"] * card["device"]["count"] / 3600)
    assert (card["energy"]["joules"] is None) == (card["energy"]["method"] == "unmeasured")
    assert card["config"] == "tiny" and card["data"]["training"]


def test_counters_of_energy_begin_before_the_folder_is_written(trained_run):
    """Tokenizing, proving kernels and restoring are in them; what was before is on the card."""
    (attempt,) = read(trained_run)["attempts"]
    opened = (trained_run / "config.json").stat().st_mtime
    assert attempt["counted_from"] >= 0 and attempt["began"] + attempt["counted_from"] < opened
    assert attempt["counted_to"] == pytest.approx(attempt["wall_seconds"], abs=1)
    assert attempt["stated"] == {"chip_watts": None, "chip_idle_watts": None, "chip_hour": 0.0}


def wait_for_line(process, folder, lines: int) -> None:
    file, deadline = folder / "metrics.jsonl", time.monotonic() + 200
    while not file.is_file() or len(file.read_text().splitlines()) <= lines:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)


def published(folder) -> list[int]:
    return [int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit()]


def test_a_run_that_was_killed_adds_up_what_it_lost(skald, tmp_path):
    """Killed behind its first checkpoint: what metrics.jsonl holds behind the step from which it goes on is lost."""
    folder = tmp_path / "run"
    options = ["--set", "steps_per_dispatch=2", "--set", "evaluation.samples=0"]
    options += ["--set", "steps=4000", "--set", "evaluation.every=4000", "--set", "checkpoints.every=100"]
    process = skald.start("train", skald.config, "--run-dir", folder, *options)
    deadline = time.monotonic() + 200
    while not published(folder):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    wait_for_line(process, folder, max(published(folder)) + 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    killed, lines = read(folder), metrics(folder)
    assert killed["attempts"][0]["ended"] == "running" and killed["goodput"]["lost"] == 0
    restored = max(published(folder))
    steps = restored + 6
    status, _, err = skald("train", skald.config, "--run-dir", folder, *options, "--set", f"steps={steps}")
    assert status == 0 and f"going on from step {restored}" in err, err
    card = read(folder)
    first, second = card["attempts"]
    lost = [line for line in lines if line["step"] > restored]
    assert lost and card["lost_steps"] == first["lost_steps"] == len(lost)
    # Of the time behind the checkpoint, the card knows that until its last sign of life too, if that was later.
    assert card["goodput"]["lost"] == pytest.approx(seconds_of(lost), abs=0.5)
    assert (first["ended"], second["ended"]) == ("killed", "done") and (first["step"], second["step"]) == (
        restored,
        steps,
    )
    assert card["wall_seconds"] == pytest.approx(first["wall_seconds"] + second["wall_seconds"], abs=1e-3)
    assert kinds(card) == pytest.approx(card["wall_seconds"], abs=1e-6)
    assert card["tokens"] == steps * TOKENS == metrics(folder)[-1]["tokens"]
    assert card["energy"]["joules"] is None and card["energy"]["method"] == "unmeasured"


def test_a_card_of_another_hand_is_refused_before_the_run_goes_on(skald, run_copy):
    (run_copy / "card.json").write_text("{}")
    before = (run_copy / "metrics.jsonl").read_bytes()
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, "--set", "steps=50")
    assert status == 1 and "card.json is not a card that this version of Skald wrote; move it away" in err
    assert (run_copy / "metrics.jsonl").read_bytes() == before


def test_experts_that_a_token_does_not_meet_are_not_in_6nd():
    """Mixtral 8x7B: 46.7 B parameters, of which a token meets 12.9 (Jiang et al. 2024, section 1)."""
    from launch import experiments

    model = experiments.resolve("mixtral:8x7b", [], None).model
    total = cost.matrix_parameters(model)
    assert total / 1e9 == pytest.approx(46.7, abs=0.05)
    assert (total - cost.inactive_parameters(model)) / 1e9 == pytest.approx(12.9, abs=0.05)
