"""`skald train` with `evaluation.human`: what it measures, how the run ends, and that a restart ends it alike.

With a rate so low that no weight changes every evaluation finds the same texts: no distance is lower than the first.
"""

import json
import shutil

import pytest

from train.listeners.human_distance import DISTANCE
from train.quality.gate import GATED

STILL = ["--set", "optimizer.peak_rate=1e-30", "--set", "evaluation.every=5", "--set", "checkpoints.every=5"]
STILL += ["--set", "checkpoints.keep_last=1", "--set", "evaluation.samples=0"]
HUMAN = ["--set", "evaluation.human.texts=20", "--set", "evaluation.human.prompt_tokens=8"]
HUMAN += ["--set", "evaluation.human.new_tokens=12"]
PATIENT = ["--set", "evaluation.human.patience=2"]


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ended(skald, tmp_path_factory):
    """A run that ended early, and what the command printed."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    status, out, err = skald("train", skald.config, "--run-dir", folder, *STILL, *HUMAN, *PATIENT, "--json")
    assert status == 0, err
    return folder, json.loads(out), err


def test_a_run_ends_where_it_comes_no_nearer_to_human_text(ended):
    folder, printed, err = ended
    assert (printed["step"], printed["reason"]) == (15, "human_distance")
    evaluated = [line for line in metrics(folder) if DISTANCE in line]
    assert [line["step"] for line in evaluated] == [5, 10, 15] and len(metrics(folder)) == 15
    assert len({line[DISTANCE] for line in evaluated}) == 1 and printed[DISTANCE] == evaluated[-1][DISTANCE] > 0
    assert {f"eval/human/{name}" for name in GATED} <= evaluated[0].keys()
    (line,) = [line for line in err.splitlines() if line.startswith("step 15: no lower distance from human text than")]
    assert "at step 5 in 2 evaluations" in line and "goes on from there" not in err
    prices = [line for line in err.splitlines() if line.startswith("evaluation.human: 20 texts of 12 tokens take ")]
    assert len(prices) == 2 and prices[0].endswith("compilation") and prices[1].endswith("once they are compiled")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["15", "5"], "the newest, and the nearest"


def test_started_again_it_has_ended_and_with_more_patience_it_goes_on(skald, ended, tmp_path):
    folder = shutil.copytree(ended[0], tmp_path / "run")
    before = metrics(folder)
    again = ["train", skald.config, "--run-dir", folder, *STILL, *HUMAN]
    printed = skald.json(*again, *PATIENT)
    assert (printed["step"], printed["reason"]) == (15, "human_distance") and metrics(folder) == before
    printed = skald.json(*again, "--set", "evaluation.human.patience=3")
    assert (printed["step"], printed["reason"]) == (20, "human_distance")


def test_a_run_that_lost_its_last_checkpoint_ends_at_the_same_step(skald, ended, tmp_path):
    folder = shutil.copytree(ended[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "15")  # as if it were killed before it was saved
    printed = skald.json("train", skald.config, "--run-dir", folder, *STILL, *HUMAN, *PATIENT)
    assert (printed["step"], printed["reason"]) == (15, "human_distance")
    assert [line["step"] for line in metrics(folder)] == list(range(1, 16))


def test_what_can_not_be_measured_is_refused_before_training(skald, tmp_path):
    cases = {
        "texts=100000": "evaluation.human: ",
        "prompt_tokens=32": "evaluation.human.prompt_tokens: 32 tokens fill the 32",
        "sampler=top_p=2": "evaluation.human.sampler: sampler 'top_p=2': ",
        "sampler=max_repeats=3": "evaluation.human.sampler: all texts are measured at new_tokens tokens",
        "sampler=contrast(run=x)": "evaluation.human.sampler: training holds one model",
    }
    folder = tmp_path / "run"
    commands = [["train", skald.config, "--run-dir", folder, *HUMAN, "--set", f"evaluation.human.{x}"] for x in cases]
    for (status, out, err), message in zip(skald.run_many(commands), cases.values(), strict=True):
        assert (status, out) == (2, "") and message in err and len(err.splitlines()) == 1, err
    assert not folder.exists()
