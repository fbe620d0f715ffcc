"""`skald train` in real processes: the files it writes, stops and resumes, and what must not be lost."""

import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from train.checkpoint_folder import CheckpointError, find_checkpoint

pytestmark = pytest.mark.timeout(400)
ROOT = Path(__file__).parents[2]
STEPS = 40


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "data_wait")} for line in lines]


def arrays(folder, step: int) -> dict:
    checkpointer = ocp.StandardCheckpointer()
    return {item: checkpointer.restore(folder / "checkpoints" / str(step) / item) for item in ("model", "optimizer")}


def same_arrays(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[item][k], b[item][k]) for item in a for k in a[item] | b[item])


def test_a_run_leaves_the_files_of_the_contract(trained_run):
    lines = metrics(trained_run)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(line["tokens"] == line["step"] * 8 * 32 for line in lines)
    assert all({"train/loss", "rate", "grad_norm", "tokens_per_second"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "eval/loss" in line] == [20, 40]
    assert lines[-1]["eval/loss"] < 3.5 < np.log(65) < lines[0]["train/loss"] + 0.5
    assert sorted(p.name for p in (trained_run / "checkpoints").iterdir()) == ["20", "40"]
    assert sorted(p.name for p in (trained_run / "samples").iterdir()) == ["20.txt", "40.txt"]
    assert len((trained_run / "samples" / "40.txt").read_text()) >= 40
    assert any((trained_run / "tensorboard").iterdir())
    assert json.loads((trained_run / "config.json").read_text())["experiment"]["steps"] == STEPS


def test_tensorboard_holds_the_same_figures(trained_run):
    """Read back with the record format's own checksums; tags and values as protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (trained_run / "tensorboard").iterdir()
    content, offset, values = file.read_bytes(), 0, {}
    while offset < len(content):
        size = int.from_bytes(content[offset : offset + 8], "little")
        event = Event.FromString(content[offset + 12 : offset + 12 + size])
        values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        offset += size + 16
    for line in metrics(trained_run):
        assert values["train/loss", line["step"]] == pytest.approx(line["train/loss"], rel=1e-6)
    assert values["eval/loss", 40] == pytest.approx(metrics(trained_run)[-1]["eval/loss"], rel=1e-6)


def wait_for_line(process, folder, lines: int) -> None:
    """Waits until metrics.jsonl has more than `lines` lines."""
    file, deadline = folder / "metrics.jsonl", time.monotonic() + 200
    while not file.is_file() or len(file.read_text().splitlines()) <= lines:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)


def test_stopped_and_killed_runs_end_as_one_that_never_was(skald, trained_run, tmp_path):
    """Ctrl-C, SIGTERM, kill -9; then to the end: the same lines, each once, and the same bits in the checkpoint."""
    folder = tmp_path / "run"
    options = ["--set", "steps_per_dispatch=4", "--set", "checkpoints.every=8"]
    for stop_signal, expected in ((signal.SIGINT, 75), (signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        process = skald.start("train", skald.config, "--run-dir", folder, *options)
        wait_for_line(process, folder, len(metrics(folder)) if folder.is_dir() else 0)
        process.send_signal(stop_signal)
        _, err = process.communicate(timeout=200)
        assert process.returncode == expected, err
        if expected == 75:
            assert f"stopped by {stop_signal.name} at step" in err
            steps = [int(p.name) for p in (folder / "checkpoints").iterdir()]
            assert metrics(folder)[-1]["step"] == max(steps)
    status, _, err = skald("train", skald.config, "--run-dir", folder, *options)
    assert status == 0 and "going on from step" in err
    assert without_speed(metrics(folder)) == without_speed(metrics(trained_run))
    assert same_arrays(arrays(folder, STEPS), arrays(trained_run, STEPS))


def test_a_finished_run_says_so_and_goes_on_with_more_steps(skald, run_copy):
    status, _, err = skald("train", skald.config, "--run-dir", run_copy)
    assert status == 0 and "is at its last step, 40; --set steps=80 would go on" in err
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, "--set", "steps=45")
    assert status == 0 and "steps: 40 -> 45" in err and "going on from step 40" in err
    assert [line["step"] for line in metrics(run_copy)] == list(range(1, 46))


def test_keep_last_and_keep_best_and_their_names(skald, run_copy):
    """Past the best step the loss is made to rise: @best stays although it is not among the last."""
    worse = ["--set", "steps=100", "--set", "evaluation.every=10", "--set", "checkpoints.every=10"]
    worse += ["--set", "checkpoints.keep_last=2", "--set", "evaluation.samples=0"]
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, *worse)
    assert status == 0, err
    steps = sorted(int(p.name) for p in (run_copy / "checkpoints").iterdir())
    scored = {line["step"]: line["eval/loss"] for line in metrics(run_copy) if "eval/loss" in line}
    best = min(scored, key=scored.get)
    assert steps == sorted({90, 100, best})
    assert skald.json("evaluate", f"{run_copy}@best")["step"] == best
    assert skald.json("evaluate", f"{run_copy}@90")["step"] == 90
    assert skald.json("evaluate", f"{run_copy}@latest")["step"] == skald.json("evaluate", run_copy)["step"] == 100


def test_from_starts_a_new_run_with_anothers_weights(skald, trained_run, tmp_path):
    status, out, err = skald("train", skald.config, "--from", trained_run, "--run-dir", tmp_path / "tuned", "--json",
                             "--set", "optimizer.peak_rate=1e-12", "--set", "steps=2",
                             "--set", "data.tokenizer.kind=bytes")  # fmt: skip
    assert status == 0 and "starting from the weights of" in err
    assert "the weights know the tokens of their characters tokenizer only" in err
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["experiment"]["data"]["tokenizer"]["kind"] == (
        "characters"
    )
    assert json.loads(out)["eval/loss"] == pytest.approx(metrics(trained_run)[-1]["eval/loss"], abs=1e-5)
    assert [line["step"] for line in metrics(tmp_path / "tuned")] == [1, 2]


def test_a_run_goes_on_from_the_weights_that_it_began_with_and_no_others(skald, trained_run, run_copy, tmp_path):
    """Other weights are refused, whether the run has a checkpoint or was stopped before its first; so are none then."""
    tuned, more = tmp_path / "tuned", ["--set", "evaluation.samples=0", "--set", "steps=3"]
    train = ["train", skald.config, "--run-dir", tuned, "--set", "evaluation.samples=0", "--set"]
    assert skald(*train, "steps=2", "--from", trained_run)[0] == 0
    (tmp_path / "other").symlink_to(trained_run)
    going_on = skald(*train, "steps=3", "--from", f"{tmp_path / 'other'}@20")  # the same run, by another name
    assert going_on[0] == 0 and "going on from step 2" in going_on[2], going_on[2]
    others, unbegun = skald.run_many(
        [
            [*train, "steps=4", "--from", run_copy],
            ["train", skald.config, "--run-dir", run_copy, *more, "--from", trained_run],
        ]
    )
    began = f"{tuned} began with the weights of {trained_run}/checkpoints/40 and can't go on"
    assert others[0] == 1 and f"{began} from those of {run_copy}; give --from {trained_run}, or" in others[2]
    assert unbegun[0] == 1 and "began with random weights and can't go on from those of" in unbegun[2]
    shutil.rmtree(tuned / "checkpoints")
    (tuned / "metrics.jsonl").unlink()
    without, begun_anew = skald(*train, "steps=2"), skald(*train, "steps=2", "--from", trained_run)
    assert without[0] == 1 and f"{began} without --from; give --from {trained_run}, or" in without[2]
    assert begun_anew[0] == 0 and "starting from the weights of" in begun_anew[2]
    shutil.rmtree(tuned / "checkpoints")
    config = json.loads((tuned / "config.json").read_text())
    assert config.pop("started_from") == f"{trained_run}/checkpoints/40"
    (tuned / "config.json").write_text(json.dumps(config))  # as an older Skald wrote it
    assert skald(*train, "steps=2", "--from", trained_run)[0] == 0


def test_an_average_of_the_weights_is_what_is_scored_and_written_with(skald, tmp_path):
    """And the plain ones can be had: those of the same checkpoint without its average."""
    from launch.api import load

    run, bare = tmp_path / "averaged", tmp_path / "bare"
    options = ["--set", "optimizer.average=0.9", "--set", "steps=20", "--set", "evaluation.samples=0"]
    status, _, err = skald("train", skald.config, "--run-dir", run, *options)
    assert status == 0, err
    assert skald.json("evaluate", run)["loss"] == pytest.approx(metrics(run)[-1]["eval/loss"], abs=1e-6)
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "checkpoints" / "20" / "average")
    loaded = [
        load(str(run)),
        load(str(run), "average"),
        load(str(run), "plain"),
        load(str(bare)),
        load(str(bare), "plain"),
    ]
    weights = [jax.tree.leaves(checkpoint.model) for checkpoint in loaded]
    same = [all(map(np.array_equal, weights[i], weights[j])) for i, j in ((0, 1), (0, 2), (2, 3), (3, 4))]
    assert same == [True, False, True, True]
    for command in ("evaluate", "generate"):
        status, _, err = skald(command, bare, "--weights", "average")
        assert status == 2 and err.endswith("no average weights in it; optimizer.average was null; there are plain\n")


def test_weights_of_another_shape_are_refused_before_anything_is_made(skald, trained_run, tmp_path):
    arguments = ["train", skald.config, "--from", trained_run, "--run-dir", tmp_path / "run", "--set", "model.width=64"]
    status, _, err = skald(*arguments)
    assert status == 2 and "do not fit this model (width: 32 there, 64 here)" in err
    assert not (tmp_path / "run").exists()


def truncate_model(folder: Path) -> None:
    """Cuts the largest file of a checkpoint's model in half."""
    file = max((p for p in (folder / "model").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [truncate_model, lambda folder: (folder / "about" / "metadata").unlink()])
def test_from_a_damaged_checkpoint_a_run_falls_back_to_the_one_before(skald, trained_run, run_copy, damage):
    """And what it saves from there on is whole; the damaged one is kept under another name."""
    damage(run_copy / "checkpoints" / "40")
    status, _, err = skald("train", skald.config, "--run-dir", run_copy)
    assert status == 0 and "going on from step 20" in err, err
    assert sorted(p.name for p in (run_copy / "checkpoints").iterdir()) == ["20", "40", "40.damaged-1"]
    assert without_speed(metrics(run_copy)) == without_speed(metrics(trained_run))
    assert same_arrays(arrays(run_copy, STEPS), arrays(trained_run, STEPS))


def test_a_run_without_its_checkpoints_is_not_begun_anew_over_its_own_figures(skald, run_copy):
    shutil.rmtree(run_copy / "checkpoints")
    before = (run_copy / "metrics.jsonl").read_bytes()
    options = ["--set", "checkpoints.every=10"]
    (run_copy / "config.json").write_text((run_copy / "config.json").read_text().replace('"every": 20', '"every": 10'))
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, *options)
    assert status == 1 and "metrics.jsonl goes to step 40 and no whole checkpoint is there" in err
    assert (run_copy / "metrics.jsonl").read_bytes() == before


def test_a_run_that_lost_its_config_is_still_told_from_another(skald, run_copy):
    (run_copy / "config.json").unlink()
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, "--seed", "5", "--set", "steps=60")
    assert status == 1 and "seed: 0 there, 5 here" in err


def test_a_checkpoint_saved_before_its_evaluation_gets_its_score(skald, trained_run, run_copy):
    """As a signal leaves it: no score. The same command evaluates it, and @best knows."""
    file = run_copy / "checkpoints" / "40" / "about" / "metadata"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "scores": {}}))
    status, _, err = skald("train", skald.config, "--run-dir", run_copy)
    assert status == 0 and "validation loss" in err
    assert json.loads(file.read_text())["scores"]["eval/loss"] == pytest.approx(
        metadata["scores"]["eval/loss"], abs=1e-6
    )


def test_a_signal_stops_an_evaluation_and_the_same_command_makes_it(skald, tmp_path):
    """Of 7,000 batches: the step is saved without a score, and each line stands once when it has one."""
    folder = tmp_path / "run"
    arguments = ["train", skald.config, "--run-dir", folder, "--set", "data.validation.start=0", "--set", "steps=20"]
    arguments += ["--set", "data.validation.stop=0.2", "--set", "steps_per_dispatch=1", "--set", "evaluation.samples=0"]
    process = skald.start(*arguments, "--set", "evaluation.rows=1")
    wait_for_line(process, folder, 18)  # a step's line is written when the next one's figures are there
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 75 and "stopped by SIGTERM at step 20" in err, err
    assert "validation loss" not in err and "eval/loss" not in metrics(folder)[-1]
    with pytest.raises(CheckpointError, match=r"no checkpoint there has a validation loss; .* has @20, @latest"):
        find_checkpoint(f"{folder}@best")
    status, _, err = skald(*arguments, "--set", "evaluation.rows=1024")
    assert status == 0, err
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert find_checkpoint(f"{folder}@best").metadata["scores"]["eval/loss"] == lines[-1]["eval/loss"]


def test_a_sample_that_a_signal_left_out_is_written_by_the_same_command(skald, trained_run, run_copy):
    file = run_copy / "samples" / "40.txt"
    file.unlink()
    status, _, err = skald("train", skald.config, "--run-dir", run_copy)
    assert status == 0 and "validation loss" not in err, err
    assert file.read_text() == (trained_run / "samples" / "40.txt").read_text()
    assert metrics(run_copy) == metrics(trained_run)


def test_a_best_evaluation_that_is_not_saved_is_told_before_and_after(skald, run_copy):
    """Of a run that was evaluated at step 30 too, and found best there."""
    lines = metrics(run_copy)
    lines[29]["eval/loss"] = 0.5
    (run_copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--set", "steps=41", "--set", "evaluation.every=6", "--set", "evaluation.samples=0"]
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, *options)
    assert status == 0 and err.count("--set checkpoints.every=6 saves at every evaluation") == 1, err
    last = err.strip().splitlines()[-1]
    best = find_checkpoint(f"{run_copy}@best")
    assert (
        f"0.5000 at step 30, was not saved; @best is step {best.step} ({best.metadata['scores']['eval/loss']:.4f})"
        in last
    )


def test_weights_that_are_no_numbers_are_neither_scored_nor_written_with(skald, trained_run, run_copy):
    """A step that was saved before its evaluation, by a run whose last update spoiled them."""
    folder, checkpointer = run_copy / "checkpoints" / "40", ocp.StandardCheckpointer()
    spoiled = {name: np.full_like(x, np.nan) for name, x in checkpointer.restore(folder / "model").items()}
    shutil.rmtree(folder / "model")
    checkpointer.save(folder / "model", spoiled)
    checkpointer.wait_until_finished()
    for command in ("evaluate", "generate"):
        status, out, err = skald(command, run_copy, "--json")
        assert (status, out) == (1, "") and "take another checkpoint" in err, (out, err)
    file = folder / "about" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scores": {}}))
    status, out, err = skald("train", skald.config, "--run-dir", run_copy, "--json")
    assert (status, out) == (1, "") and "eval/loss is nan at step 40" in err.strip().splitlines()[-1], err
    assert not json.loads(file.read_text())["scores"] and metrics(run_copy) == metrics(trained_run)
    assert find_checkpoint(f"{run_copy}@best").step == 20


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_written(skald, tmp_path):
    arguments = ["--set", "optimizer.peak_rate=1e38", "--set", "optimizer.clip=null"]
    status, _, err = skald("train", skald.config, "--run-dir", tmp_path / "run", *arguments)
    assert status == 1 and "a lower optimizer.peak_rate" in err.strip().splitlines()[-1]
    file = tmp_path / "run" / "metrics.jsonl"
    assert not file.is_file() or "NaN" not in file.read_text()


def test_rows_of_evaluation_need_not_divide_over_the_devices(skald, tmp_path):
    flags = f"{skald.environment['XLA_FLAGS']} --xla_force_host_platform_device_count=3"
    three = skald.with_environment(XLA_FLAGS=flags)
    arguments = ["train", skald.config, "--set", "batch_size=9", "--set", "steps=20"]
    status, _, err = three(*arguments, "--run-dir", tmp_path / "three")
    assert status == 0 and "3 cpu devices" in err, err
    status, _, err = skald(*arguments, "--run-dir", tmp_path / "other")
    assert metrics(tmp_path / "three")[-1]["eval/loss"] == pytest.approx(
        metrics(tmp_path / "other")[-1]["eval/loss"], abs=2e-3
    )


def test_a_second_trainer_is_refused_and_the_first_goes_on(skald, tmp_path):
    folder = tmp_path / "run"
    first = skald.start("train", skald.config, "--run-dir", folder, "--set", "steps=4000",
                        "--set", "checkpoints.every=4000", "--set", "evaluation.every=4000")  # fmt: skip
    wait_for_line(first, folder, 0)
    status, _, err = skald("train", skald.config, "--run-dir", folder, "--set", "steps=4000")
    assert status == 1 and f"another trainer holds this run (process {first.pid}" in err
    assert len(err.strip().splitlines()) == 1, err
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=200)
    assert first.returncode == 75


def test_other_text_under_the_same_name_is_refused(skald, tmp_path):
    text, folder = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("To be, or not to be, that is the question.\n" * 200)
    command = ["train", skald.config, "--run-dir", folder, "--set", f"data.source.path={text}", "--set", "steps=2"]
    command += ["--set", "data.train.stop=0.9", "--set", "data.validation.start=0.9", "--set", "data.validation.stop=1"]
    command += ["--set", "data.tokenizer.kind=bytes", "--set", "model.vocab_size=0"]
    status, _, err = skald(*command)
    assert status == 0, err
    stored = json.loads((folder / "config.json").read_text())["experiment"]
    assert stored["model"]["vocab_size"] == 256, "0 is the tokenizer's; what is kept is the number"
    status, _, err = skald(*command, "--set", "model.vocab_size=256")
    assert status == 0 and "is at its last step" in err, err
    before = (folder / "metrics.jsonl").read_bytes()
    text.write_text("Whether 'tis nobler in the mind to suffer the slings.\n" * 200)
    status, _, err = skald(*command, "--set", "steps=4")
    assert status == 1 and "was trained on other data (changed: training source" in err
    text.unlink()
    status, _, err = skald(*command, "--set", "steps=4")
    assert status == 1 and err.splitlines()[-1] == f"skald: {text}: no such file, folder or match"
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_goes_on_whose_config_has_a_field_under_its_earlier_name(skald, run_copy):
    """Execution.panels was `turned` up to version 0.2.0, then `transposed` up to 0.4.0."""
    for file in (run_copy / "config.json", *run_copy.glob("checkpoints/*/about/metadata")):
        text = file.read_text()
        assert '"panels": false' in text
        file.write_text(text.replace('"panels"', '"turned"'))
    status, _, err = skald("train", skald.config, "--run-dir", run_copy, "--set", "steps=45")
    assert status == 0 and "going on from step 40" in err, err
    assert [line for line in err.splitlines() if "changed since" in line] == [
        "changed since the run began: steps: 40 -> 45"
    ]
    assert '"turned"' not in (run_copy / "config.json").read_text()


def test_without_the_cpu_folder_only_speed_changes(skald, fresh, trained_run, tmp_path):
    """A copy of the checkout that lacks launch/machine/cpu: the same losses, to rounding, bfloat16's in products."""
    for package in ("model", "data", "train", "configs", "launch"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "launch" / "machine" / "cpu")
    bare = fresh.with_environment(PYTHONPATH=str(tmp_path))
    status, _, err = bare("train", skald.config, "--run-dir", tmp_path / "run")
    assert status == 0 and "1 cpu device," in err
    for line, expected in zip(metrics(tmp_path / "run"), metrics(trained_run), strict=True):
        assert line["train/loss"] == pytest.approx(expected["train/loss"], abs=2e-3)
