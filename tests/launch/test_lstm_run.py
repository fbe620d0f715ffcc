"""The LSTM through the real commands: trained, stopped by a signal and gone on with, scored, written with."""

import json
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

pytestmark = pytest.mark.timeout(400)
STEPS = 24
OPTIONS = ["--set", f"steps={STEPS}", "--set", "model.width=24", "--set", "batch_size=4", "--set", "data.length=32"]
OPTIONS += ["--set", "steps_per_dispatch=4", "--set", f"evaluation.every={STEPS}", "--set", "checkpoints.every=8"]
OPTIONS += ["--set", "evaluation.sample_tokens=8"]


def lines(folder) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def losses(folder) -> list[tuple]:
    return [(line["step"], line["train/loss"], line.get("eval/loss")) for line in lines(folder)]


def weights(folder) -> dict[str, np.ndarray]:
    return ocp.StandardCheckpointer().restore(folder / "checkpoints" / str(STEPS) / "model")


@pytest.mark.slow(40)
def test_an_lstm_stopped_by_a_signal_goes_on_bit_for_bit_and_is_scored_and_written_with(skald, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    status, _, err = skald("train", "lstm", "--run-dir", whole, *OPTIONS)
    assert status == 0, err
    process, deadline = skald.start("train", "lstm", "--run-dir", stopped, *OPTIONS), time.monotonic() + 200
    while not lines(stopped) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 75 and 0 < len(lines(stopped)) < STEPS, err
    status, _, err = skald("train", "lstm", "--run-dir", stopped, *OPTIONS)
    assert status == 0 and "going on from step" in err
    assert losses(stopped) == losses(whole) and losses(whole)[-1][2] < np.log(65)
    found, expected = weights(stopped), weights(whole)
    assert found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in found)
    scored = skald.json("evaluate", stopped)
    assert scored["loss"] == pytest.approx(losses(whole)[-1][2], abs=1e-5)
    (sample,) = skald.json("generate", stopped, "--prompt", "ROMEO:", "--max-new-tokens", "80")["samples"]
    assert len(sample["text"]) == 80


def test_a_mesh_that_splits_time_is_refused_in_one_line(skald):
    status, out, err = skald("train", "lstm", "--set", "mesh.context=2")
    line = "skald: mesh.context: must be 1 where a layer is recurrent: it reads time in order, got 2\n"
    assert (status, out, err) == (2, "", line)
