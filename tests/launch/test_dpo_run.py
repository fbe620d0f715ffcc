"""`skald train --from RUN` with objective=DPO in real processes: what it learns, its reference beside the checkpoints,
how it goes on, and what it refuses."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_train import metrics, without_speed

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Settings that make a run of preferences of the tiny config: vowels are better than consonants."""
    path, random = tmp_path_factory.mktemp("pairs") / "pairs.jsonl", np.random.default_rng(0)

    def text(letters: str) -> str:
        return "".join(random.choice(list(letters), random.integers(4, 12)))

    records = [{"prompt": text("abcde"), "chosen": text("aeiou"), "rejected": text("xzqjk")} for _ in range(120)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = {"path": str(path), "field": "chosen", "prompt": "prompt", "rejected": "rejected"}
    settings = {
        "objective": "dpo", "data.packing": "pairs", "data.split": "hash", "data.source": json.dumps(source),
        "steps": 20, "data.train": "null", "data.validation": "null", "evaluation.samples": 0,
        "evaluation.every": 10, "checkpoints.every": 10,
    }  # fmt: skip
    return [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]


@pytest.fixture(scope="module")
def tuned_run(skald, trained_run, options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo") / "run"
    status, _, err = skald("train", skald.config, "--from", trained_run, "--run-dir", folder, *options)
    assert status == 0 and "starting from the weights of" in err, err
    assert "nats a pair, " in err and "% of pairs ranked right, reward margin" in err
    return folder


def items(folder, step: int) -> dict:
    names = {name: folder / "checkpoints" / str(step) / name for name in ("model", "optimizer")}
    return {name: ocp.StandardCheckpointer().restore(path) for name, path in names.items()}


def test_a_run_of_preferences_ranks_validation_pairs_and_keeps_what_it_started_from(skald, tuned_run, trained_run):
    lines = metrics(tuned_run)
    assert lines[0]["train/loss"] == pytest.approx(np.log(2), abs=2e-3) and lines[0]["train/rewards/accuracies"] <= 1
    assert lines[-1]["eval/loss"] < 0.4 and lines[-1]["eval/rewards/accuracies"] > 0.9
    assert lines[-1]["eval/logps/rejected"] < lines[9]["eval/logps/rejected"]
    started = ocp.StandardCheckpointer().restore(trained_run / "checkpoints" / "40" / "model")
    reference = ocp.StandardCheckpointer().restore(tuned_run / "base" / "weights")
    assert all(np.array_equal(reference[path], array) for path, array in started.items())
    found = items(tuned_run, 20)["model"]
    assert found.keys() == started.keys() and not any(np.array_equal(found[path], started[path]) for path in started)
    scores = skald.json("evaluate", tuned_run)
    assert 0 < scores["loss"] < 10 and 40 < scores["tokens"] == scores["bytes"] < 200  # the chosen responses alone


def test_a_run_of_preferences_goes_on_with_the_same_bits(skald, tuned_run, options, tmp_path):
    folder = shutil.copytree(tuned_run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "20")
    status, _, err = skald("train", skald.config, "--run-dir", folder, *options)
    assert status == 0 and "going on from step 10" in err, err
    assert without_speed(metrics(folder)) == without_speed(metrics(tuned_run))
    one, other = items(folder, 20), items(tuned_run, 20)
    assert all(np.array_equal(one[item][path], array) for item in other for path, array in other[item].items())


def test_what_can_not_be_tuned_is_refused_in_one_line(skald, tuned_run, trained_run, options, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(tuned_run, lost, ignore=shutil.ignore_patterns("base"))
    new = ["train", skald.config, "--run-dir", tmp_path / "run", *options]
    given = [*new, "--from", trained_run, "--set"]
    commands = {
        "objective: DPO from random weights teaches nothing; name the run to tune, as --from RUN": new,
        "batch_size: 7 rows in microbatches=1 are no whole pairs of rows; try 6 or 8": [*given, "batch_size=7"],
        "data.packing: must be pairs with objective=DPO": [*given, "data.packing=padding"],
        "no field 'worse'; there: 'prompt', 'chosen', 'rejected'": [*given, "data.source.rejected=worse"],
        "documents are longer than a row of data.length=8": [*given, "data.length=8"],
        "holds another run (objective.beta: 0.1 there, 0.2 here)":
            ["train", skald.config, "--run-dir", tuned_run, *options, "--set", "objective.beta=0.2"],
        "lost/base: no such folder": ["train", skald.config, "--run-dir", lost, *options, "--set", "steps=30"],
    }  # fmt: skip
    results = skald.run_many(list(commands.values()))
    for line, (status, _, err) in zip(commands, results, strict=True):
        assert status in (1, 2) and line in err and err.splitlines()[-1].count(line) == 1, err
    assert not (tmp_path / "run").exists()
