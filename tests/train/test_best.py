"""What @best is: one ranking for keeping and for finding, and a line where the best evaluation was not saved."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny

from train.check import check
from train.checkpoint import PreservationPolicy
from train.checkpoint_folder import CheckpointError, find_checkpoint, rank
from train.events import Ended, Evaluated, Measured, Started
from train.fields import ConfigError
from train.listeners.best import BestCheckpoint
from train.listeners.finite import check_finite
from train.run import RunError

NAN = math.nan


def run_folder(folder, losses: dict):
    """A run's folder as far as names of checkpoints go: step -> eval/loss, None for one without a score."""
    for step, loss in losses.items():
        place = folder / "checkpoints" / str(step)
        (place / "model").mkdir(parents=True)
        (place / "about").mkdir()
        scores = {} if loss is None else {"eval/loss": loss}
        metadata = {"step": step, "config": {"model": {}}, "scores": scores, "trained_length": 8}
        (place / "about" / "metadata").write_text(json.dumps(metadata))
    return folder


@pytest.mark.parametrize(
    "losses, order",
    [
        ({10: 2.5, 20: 2.25, 30: 2.25, 40: 3.0}, [20, 30, 10, 40]),
        ({10: NAN, 20: 2.5, 30: 2.25}, [30, 20]),
        ({10: 2.5, 20: NAN, 30: 2.25}, [30, 10]),
        ({10: 2.25, 20: math.inf, 30: None, 40: NAN, 50: -math.inf}, [10]),
        ({10: NAN, 20: None}, []),
    ],
)
def test_what_is_kept_and_what_is_found_are_ranked_alike_and_no_nan_is_in_it(tmp_path, losses, order):
    run = run_folder(tmp_path, losses)
    assert rank(losses) == order
    there = [SimpleNamespace(step=step) for step in losses]
    for best in (0, 1, 2):
        kept = PreservationPolicy(run, 1, best).should_preserve(there, context=None)
        assert {c.step for c, keep in zip(there, kept, strict=True) if keep} == {max(losses), *order[:best]}
    if order:
        assert find_checkpoint(f"{run}@best").step == order[0]
    else:
        with pytest.raises(
            CheckpointError, match=r"no checkpoint there has a validation loss; .* has @10, @20, @latest"
        ):
            find_checkpoint(f"{run}@best")


def fake(folder, steps: int, evaluated: int, saved: int, keep_best: int = 1):
    """A run of these cadences; `folder` may hold what it left."""
    e = tiny.experiment(steps=steps)
    e = replace(e, evaluation=replace(e.evaluation, every=evaluated))
    e = replace(e, checkpoints=replace(e.checkpoints, every=saved, keep_best=keep_best))
    return SimpleNamespace(experiment=e, folder=folder)


def unsaved(steps: int, evaluated: int, saved: int) -> set[int]:
    """Evaluations that are not saved, by going through the steps."""
    every = range(1, steps + 1)
    return {s for s in every if not s % evaluated or s == steps} - {s for s in every if not s % saved or s == steps}


@pytest.mark.parametrize("steps", [12, 60])
def test_cadences_that_do_not_meet_are_told_once_with_one_that_does(tmp_path, steps):
    for evaluated in range(1, 70):
        for saved in range(1, 70):
            lines = []
            BestCheckpoint(lines.append)(fake(tmp_path, steps, evaluated, saved), Started(0))
            assert len(lines) == bool(unsaved(steps, evaluated, saved)), (evaluated, saved)
            for line in lines:
                instead = int(line.partition("--set checkpoints.every=")[2].split()[0])
                assert not unsaved(steps, evaluated, instead), line
    lines = []
    BestCheckpoint(lines.append)(fake(tmp_path, steps, 3, 2, keep_best=0), Started(0))
    BestCheckpoint(lines.append)(fake(tmp_path, steps, 3, 2), Started(steps))
    assert not lines, "nothing is kept as the best, or nothing is left to do"


@pytest.mark.parametrize("evaluated, saved, instead", [(30, 50, 30), (1000, 300, 250), (101, 50, 101), (100, 15, 20)])
def test_the_cadence_that_is_named_is_near_to_what_was_asked(tmp_path, evaluated, saved, instead):
    lines = []
    BestCheckpoint(lines.append)(fake(tmp_path, 5000, evaluated, saved), Started(0))
    assert f"--set checkpoints.every={instead} " in lines[0]


def test_at_the_end_a_best_evaluation_that_was_not_saved_is_named(tmp_path):
    run = fake(run_folder(tmp_path, {20: 2.5, 40: 2.25}), 40, 10, 20)
    for losses, said in (
        ({10: 2.75, 20: 2.5, 40: 2.25}, []),
        ({10: 2.75, 20: 2.5, 30: 2.125, 40: 2.25}, ["2.1250 at step 30, was not saved; @best is step 40 (2.2500)"]),
        ({10: 2.25, 20: 2.5, 40: 2.25}, []),  # as good as what is saved
        ({}, []),
    ):
        lines = []
        written = [{"step": s} | ({"eval/loss": losses[s]} if s in losses else {}) for s in range(1, 41)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
        BestCheckpoint(lines.append)(run, Ended(40, "done"))
        assert len(lines) == len(said) and all(map(str.__contains__, lines, said)), lines


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_figure_that_is_no_number_stops_the_run_whichever_it_is(tmp_path, bad):
    run = SimpleNamespace(folder=tmp_path)
    good = {"step": 3, "train/loss": 2.0, "grad_norm": 1.0, "rate": 0.1}
    check_finite(run, Measured([good]))
    check_finite(run, Evaluated(3, {"eval/loss": 2.0}))
    for event in (Evaluated(3, {"eval/loss": bad}), *(Measured([good, good | {n: bad}]) for n in good if n != "step")):
        with pytest.raises(RunError, match=rf"is {bad} at step 3; the checkpoints before it are whole"):
            check_finite(run, event)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_python_configs_numbers_are_finite_as_a_command_lines_are(bad):
    """JSON has no other, and the run's own config could not be read back."""
    check(tiny.experiment())
    with pytest.raises(ConfigError, match="chip_hour: must be finite"):
        check(tiny.experiment(chip_hour=bad))
    with pytest.raises(ConfigError, match=r"optimizer\.rule\.epsilon: must be finite"):
        made = tiny.experiment()
        check(replace(made, optimizer=replace(made.optimizer, rule=replace(made.optimizer.rule, epsilon=bad))))
