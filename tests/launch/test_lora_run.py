"""`skald train --from RUN --set lora=…` in real processes: a run that is enough by itself, killed and resumed."""

import shutil
import signal
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_train import metrics, without_speed

pytestmark = pytest.mark.timeout(400)
LORA = 'lora={"rank": 4, "alpha": 8, "paths": ["stacks.*.mixer.query", "stacks.*.mixer.value", "output"]}'
GPT2_CONFIG = '''"""A tiny GPT-2 on a tenth of Shakespeare."""

from dataclasses import replace

from configs import gpt2, shakespeare
from data.config import Span
from train.config import Checkpoints, Evaluation, Experiment


def default() -> Experiment:
    base = shakespeare.default()
    return replace(
        base,
        name="tiny-gpt2",
        model=replace(gpt2.gpt2(2, 32, 4), vocab_size=65, context=32),
        data=replace(base.data, length=32, train=Span(0, 0.09), validation=Span(0.09, 0.1)),
        steps=4,
        batch_size=8,
        evaluation=Evaluation(every=4, rows=64, samples=0),
        checkpoints=Checkpoints(every=4),
    )
'''
OPTIONS = ["--set", LORA, "--set", "checkpoints.every=10", "--set", "evaluation.samples=0"]


@pytest.fixture(scope="module")
def adapted_run(skald, trained_run, tmp_path_factory):
    """A finished run of adapters; the run that it started from is gone."""
    source, folder = (tmp_path_factory.mktemp("lora") / name for name in ("source", "run"))
    shutil.copytree(trained_run, source)
    status, _, err = skald("train", skald.config, "--from", source, "--run-dir", folder, *OPTIONS)
    assert status == 0 and "starting from the weights of" in err, err
    shutil.rmtree(source)
    return folder


def items(folder, step: int) -> dict:
    names = {"base": folder / "base" / "weights"}
    names |= {name: folder / "checkpoints" / str(step) / name for name in ("model", "optimizer")}
    return {name: ocp.StandardCheckpointer().restore(path) for name, path in names.items()}


def test_a_run_of_adapters_is_enough_by_itself(skald, adapted_run, trained_run):
    from launch.api import load

    lines = metrics(adapted_run)
    assert lines[0]["train/loss"] < metrics(trained_run)[0]["train/loss"] - 0.3
    assert lines[-1]["eval/loss"] < metrics(trained_run)[-1]["eval/loss"]
    scores = skald.json("evaluate", adapted_run)
    assert scores["loss"] == pytest.approx(lines[-1]["eval/loss"], abs=1e-5)
    loaded, before = load(str(adapted_run)), load(str(trained_run))
    assert loaded.generate("ROMEO:", max_new_tokens=8)[0]["text"]
    assert not loaded.model.config.tied and before.model.config.tied
    assert np.abs(loaded.logits([[1, 2, 3]]) - before.logits([[1, 2, 3]])).max() > 1e-3


def test_checkpoints_hold_the_adapters_alone_and_the_base_is_what_was_started_from(adapted_run, trained_run):
    stored = items(adapted_run, 40)
    expected = ocp.StandardCheckpointer().restore(trained_run / "checkpoints" / "40" / "model")
    assert stored["base"].keys() == expected.keys() | {"output"}
    assert all(np.array_equal(stored["base"][path], array) for path, array in expected.items())
    paths = ("stacks.0.pattern.0.mixer.query", "stacks.0.pattern.0.mixer.value", "output")
    assert stored["model"].keys() == {f"{path}.{part}" for path in paths for part in ("down", "up")}


def test_killed_and_resumed_a_run_of_adapters_ends_with_the_same_bits(skald, trained_run, adapted_run, tmp_path):
    folder = tmp_path / "run"
    process = skald.start("train", skald.config, "--from", trained_run, "--run-dir", folder, *OPTIONS)
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "20").is_dir():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    status, _, err = skald("train", skald.config, "--run-dir", folder, *OPTIONS)
    assert status == 0 and "going on from step" in err, err
    assert without_speed(metrics(folder)) == without_speed(metrics(adapted_run))
    killed, whole = items(folder, 40), items(adapted_run, 40)
    assert all(np.array_equal(killed[item][k], whole[item][k]) for item in whole for k in killed[item] | whole[item])


def test_what_can_not_be_adapted_is_refused_in_one_line(skald, trained_run, adapted_run, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(adapted_run, lost, ignore=shutil.ignore_patterns("base"))
    train = ["train", skald.config, "--run-dir", tmp_path / "run", "--set"]
    unmatched = LORA.replace("query", "qery")
    results = skald.run_many([
        [*train, LORA],
        [*train, unmatched, "--from", trained_run],
        ["train", skald.config, "--run-dir", adapted_run],
        ["evaluate", lost],
    ])  # fmt: skip
    assert [status for status, *_ in results] == [2, 2, 1, 2]
    parts = ["as --from RUN", "matches no matrix; the nearest matrix is 'stacks.0.pattern.0.mixer.query'",
             "holds another run (lora", "lost/base: no such folder"]  # fmt: skip
    assert all(part in err and err.count("\n") == 1 for part, (_, _, err) in zip(parts, results, strict=True)), results
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(25)
def test_adapters_go_out_to_a_peft_folder_and_come_back_as_a_run_of_its_own(skald, tmp_path):
    """Of a run of GPT-2's shape; the run that is made of the folder writes and scores without its base."""
    from launch.api import load

    config = tmp_path / "tiny_gpt2.py"
    config.write_text(GPT2_CONFIG)
    base, run, folder, made = (tmp_path / name for name in ("base", "run", "peft", "made"))
    for arguments in (
        ["train", config, "--run-dir", base],
        ["train", config, "--from", base, "--run-dir", run, "--set", LORA, "--set", "optimizer.peak_rate=0.05"],
        ["export", run, folder, "--adapters"],
        ["import", folder, made, "--base", base],
    ):
        status, _, err = skald(*arguments)
        assert status == 0, err
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    shutil.move(base, tmp_path / "away")
    expected, found, before = (load(str(each)).logits([[1, 2, 3, 4]]) for each in (run, made, tmp_path / "away"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - before).max() > 1e-3
    results = skald.run_many([
        ["export", tmp_path / "away", tmp_path / "none", "--adapters"],
        ["import", folder, tmp_path / "none", "--base", base],
        ["train", config, "--run-dir", made, "--set", LORA],
    ])  # fmt: skip
    parts = ["has no adapters", "no such folder", "was imported, not trained"]
    assert all(status and part in err and err.count("\n") == 1
               for part, (status, _, err) in zip(parts, results, strict=True)), results  # fmt: skip
    assert not (tmp_path / "none").exists()
