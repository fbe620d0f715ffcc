"""When a run ends as it comes no nearer to human text: the rule, the listener after a restart, names of checkpoints."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
from test_best import run_folder

from train.check import check
from train.checkpoint import PreservationPolicy
from train.checkpoint_folder import CheckpointError, find_checkpoint
from train.config import HumanDistance
from train.events import Ended, Evaluated, Paused, Started
from train.fields import ConfigError, replace_at
from train.listeners.console import ConsoleProgress
from train.listeners.human_distance import DISTANCE, HumanDistanceStop, ended_early, is_exhausted
from train.run import Run


@pytest.mark.parametrize(
    "distances, patience, exhausted",
    [
        ({}, 1, False),
        ({5: 2.0}, 1, False),
        ({5: 2.0, 10: 1.0, 15: 1.5}, 1, True),
        ({5: 2.0, 10: 1.0, 15: 1.5}, 2, False),
        ({5: 2.0, 10: 1.0, 15: 1.0, 20: 1.0}, 2, True),  # as low is no lower
        ({5: 2.0, 10: 3.0, 15: 1.0, 20: 4.0}, 2, False),
        ({20: 4.0, 5: 2.0, 15: 3.0, 10: 3.0}, 3, True),  # in any order
    ],
)
def test_patience_is_exhausted_by_as_many_evaluations_after_the_lowest(distances, patience, exhausted):
    assert is_exhausted(distances, patience) is exhausted


def experiment(steps: int = 40, **human):
    made = tiny.experiment(steps=steps)
    return replace(made, evaluation=replace(made.evaluation, every=5, human=HumanDistance(**human)))


SIGNAL_STEP = 25


def go(folder, distances: dict, e, start: int = 0, stop: str = "") -> tuple[Run, list[str], int]:
    """Tells a listener of the pauses of a run that has these distances; a signal `stop` comes in that of SIGNAL_STEP.

    Returns the run, the lines of the listener's report, and the step at which it ended."""
    lines, run = [], Run(SimpleNamespace(experiment=e, mesh=None), folder, None)
    listener = HumanDistanceStop(lines.append)
    listener(run, Started(start))
    if start:
        run.scores[start] = {"eval/loss": 1.0}
    for step in range(start, e.steps + 1):
        if step > start and step in distances:
            run.scores[step] = {DISTANCE: distances[step]}
            listener(run, Evaluated(step, run.scores[step]))
        run.stop = stop if step == SIGNAL_STEP else ""
        listener(run, Paused(step))
        if run.stop:
            return run, lines, step
    return run, lines, e.steps


def write_metrics(folder, distances: dict) -> None:
    lines = [
        {"step": s, "train/loss": 1.0} | ({DISTANCE: distances[s]} if s in distances else {}) for s in range(1, 41)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


FALLS_THEN_RISES = {5: 3.0, 10: 2.0, 15: 1.25, 20: 1.5, 25: 1.375, 30: 2.0, 35: 3.0, 40: 3.0}


def test_a_run_ends_in_the_pause_in_which_its_patience_is_exhausted(tmp_path):
    run, lines, step = go(tmp_path, FALLS_THEN_RISES, experiment(patience=2))
    assert (run.stop, run.finished, step) == ("human_distance", True, 25)
    (line,) = lines
    assert line.startswith(
        "step 25: no lower distance from human text than 1.250 at step 15 in 2 evaluations (now 1.375)"
    )
    assert "--set evaluation.human.patience=4" in line and "\n" not in line


@pytest.mark.parametrize("restart", [5, 10, 15, 20, 25])
def test_it_ends_where_it_would_have_ended_whatever_was_killed_before(tmp_path, restart):
    write_metrics(tmp_path, FALLS_THEN_RISES)  # lines after the restart too: they are dropped by who writes them
    run, _, step = go(tmp_path, FALLS_THEN_RISES, experiment(patience=2), restart)
    assert (run.stop, step) == ("human_distance", 25)


def test_more_patience_goes_on_and_none_or_no_config_never_ends(tmp_path):
    write_metrics(tmp_path, FALLS_THEN_RISES)
    assert go(tmp_path, FALLS_THEN_RISES, experiment(patience=3), 25)[2] == 30
    for e in (experiment(patience=0), tiny.experiment(steps=40)):
        assert go(tmp_path, FALLS_THEN_RISES, e)[0].stop == ""


def test_a_pause_without_a_distance_ends_nothing(tmp_path):
    """As where a run was on without `evaluation.human` for a while."""
    write_metrics(tmp_path, {5: 1.0, 10: 2.0})
    run, lines, _ = go(tmp_path, {20: 0.5}, experiment(patience=1), 15)
    assert (run.stop, lines) == ("", [])


def test_the_last_step_is_done_and_a_signal_goes_first(tmp_path):
    run, lines, step = go(tmp_path, FALLS_THEN_RISES, experiment(steps=25, patience=2))
    assert (run.stop, lines, step) == ("", [], 25)
    run, lines, step = go(tmp_path, FALLS_THEN_RISES, experiment(patience=2), stop="SIGTERM")
    assert (run.stop, run.finished, lines, step) == ("SIGTERM", False, [], SIGNAL_STEP)


def test_the_console_promises_to_go_on_after_a_signal_alone(capsys):
    for stop, finished, said in (("SIGTERM", False, True), ("human_distance", True, False), ("", False, False)):
        ConsoleProgress(lambda _: None)(SimpleNamespace(stop=stop, finished=finished), Ended(7, stop or "done"))
        assert ("the same command goes on" in capsys.readouterr().err) is said


def test_a_watch_knows_that_a_run_has_ended_once_its_newest_checkpoint_is_there(tmp_path):
    write_metrics(tmp_path, {step: FALLS_THEN_RISES[step] for step in (5, 10, 15, 20, 25)})
    human = {"patience": 2}
    assert ended_early(tmp_path, human, 25) and not ended_early(tmp_path, human, 20)
    assert not ended_early(tmp_path, {"patience": 3}, 25) and not ended_early(tmp_path, {"patience": 0}, 25)
    assert not ended_early(tmp_path, None, 25)


def test_the_nearest_checkpoint_is_kept_beside_the_best_and_has_a_name(tmp_path):
    run = run_folder(tmp_path, {10: 2.5, 20: 2.0, 30: 2.25, 40: 2.5})
    with pytest.raises(
        CheckpointError, match=r"no checkpoint there has a distance from human text \(evaluation.human\)"
    ):
        find_checkpoint(f"{run}@human")
    policy = PreservationPolicy(run, 1, 1)
    for step, loss, distance in ((10, 2.5, 1.0), (20, 2.0, 3.0), (30, 2.25, 2.0), (40, 2.5, 4.0)):
        file = run / "checkpoints" / str(step) / "about" / "metadata"
        scores = {"eval/loss": loss, DISTANCE: distance}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"scores": scores}))
        policy.record(step, scores)
    there = [SimpleNamespace(step=step) for step in (10, 20, 30, 40)]
    for kept in (policy, PreservationPolicy(run, 1, 1)):
        assert kept.should_preserve(there, context=None) == [True, True, False, True]
    assert find_checkpoint(f"{run}@human").step == 10 and find_checkpoint(f"{run}@best").step == 20


@pytest.mark.parametrize(
    "field, value", [("texts", "19"), ("prompt_tokens", "0"), ("new_tokens", "3"), ("patience", "-1")]
)
def test_numbers_that_measure_nothing_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"evaluation\.human\.{field}: must be at least \d+, got {value}"):
        check(replace_at(tiny.experiment(), f"evaluation.human.{field}", value))
