"""Configs learn as their committed curves show: the first steps of a run always, whole runs with `-m slow`."""

import json
import signal
import time
from pathlib import Path

import pytest

from configs import shakespeare
from launch import experiments
from launch.bench.curves import WINDOW, window_means

pytestmark = pytest.mark.timeout(900)
CURVES = Path(__file__).parents[2] / "configs" / "curves"
FIRST_WINDOWS = 5  # windows of a short run
# Nats a token over the whole validation split, means of three seeds. The recipe of nanoGPT in PyTorch: 1.912.
FINAL_LOSS = {"shakespeare": 1.52, "shakespeare:nanogpt": 1.91}


def committed_curve(name: str) -> dict:
    return json.loads((CURVES / f"{name.replace(':', '-')}.json").read_text())


def metrics(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture
def optimized_skald(fresh):
    """Runs commands that compile with XLA's full optimization, as for users."""
    return fresh.with_environment(XLA_FLAGS="")


@pytest.mark.parametrize("name", ["shakespeare", pytest.param("shakespeare:nanogpt", marks=pytest.mark.slow(25))])
def test_a_fresh_run_begins_on_its_curve(optimized_skald, tmp_path, name):
    """Rounding differs between machines, and grows with every step: hence two tolerances."""
    process = optimized_skald.start("train", name, "--run-dir", tmp_path / "run", "--set", "evaluation.samples=0")
    while process.poll() is None and len(metrics(tmp_path / "run")) < FIRST_WINDOWS * WINDOW:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 75, err
    losses, expected = window_means(metrics(tmp_path / "run")), committed_curve(name)["seeds"]["0"]["train/loss"]
    assert losses[0] == pytest.approx(expected[0], abs=0.003)
    assert losses[:FIRST_WINDOWS] == pytest.approx(expected[:FIRST_WINDOWS], abs=0.03)


@pytest.mark.parametrize("name", FINAL_LOSS)
def test_a_configs_docstring_says_what_its_curves_end_at(name):
    make = experiments.variants(shakespeare)[name.partition(":")[2] or "default"]
    ends = [list(seed["eval/loss"].values())[-1] for seed in committed_curve(name)["seeds"].values()]
    listed = ", ".join(f"{end:.3f}" for end in ends)
    assert f"skald train {name}: {sum(ends) / 3:.3f} (seeds 0, 1, 2: {listed})" in make.__doc__
    assert list(committed_curve(name)["seeds"]) == ["0", "1", "2"] and sum(ends) / 3 <= FINAL_LOSS[name]


@pytest.mark.slow(165)
@pytest.mark.parametrize("name", FINAL_LOSS)
def test_a_whole_run_ends_where_its_curve_does(optimized_skald, tmp_path, name):
    """A seed that is not among the committed ones; three of them ended within 0.02 of one another."""
    run = tmp_path / "run"
    process = optimized_skald.start("train", name, "--run-dir", run, "--seed", "1234", "--json")
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err
    ends = [list(seed["eval/loss"].values())[-1] for seed in committed_curve(name)["seeds"].values()]
    assert json.loads(out)["eval/loss"] == pytest.approx(sum(ends) / len(ends), abs=0.03)
    assert json.loads(out)["eval/loss"] <= FINAL_LOSS[name] + 0.01
