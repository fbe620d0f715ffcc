"""Ends a run once what its model writes comes no nearer to human text (`evaluation.human`), whatever its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from train import processes
from train.checkpoint_folder import RANKED_BY, rank
from train.events import Evaluated, Event, Paused, Started
from train.listeners.metrics import read_metrics
from train.run import Run

DISTANCE = RANKED_BY["human"]
REASON = "human_distance"  # of the end, in the JSON of `skald train`


class HumanDistanceStop:
    """Finishes the run in the pause at which its patience is exhausted, after texts and checkpoints of that step.

    The distances of before a restart are read from metrics.jsonl; process 0 decides for all. Hears Paused after the
    listeners that evaluate and save. `report` is given a line about the end.
    """

    def __init__(self, report: Callable[[str], None]):
        self.report, self.distances = report, {}

    def __call__(self, run: Run, event: Event) -> None:
        human = run.experiment.evaluation.human
        if human is None or not human.patience:
            return
        match event:
            case Started():
                known = processes.broadcast_from_first(lambda: list(read_distances(run.folder).items()))
                self.distances = {step: distance for step, distance in known if step <= event.step}
            case Evaluated(step, values):
                self.distances[step] = values[DISTANCE]
            case Paused(step) if step in self.distances and step < run.experiment.steps and not run.stop:
                if processes.broadcast_from_first(lambda: is_exhausted(self.distances, human.patience)):
                    run.finish(REASON)
                    self.report(self.describe_end(step, human.patience))

    def describe_end(self, step: int, patience: int) -> str:
        nearest = rank(self.distances)[0]
        return (
            f"step {step}: no lower distance from human text than {self.distances[nearest]:.3f} at step {nearest} in "
            f"{patience} evaluations (now {self.distances[step]:.3f}), so the run ends here; RUN@human is the nearest "
            f"that was saved; --set evaluation.human.patience={2 * patience} would go on"
        )


def read_distances(folder: Path) -> dict[int, float]:
    """The distance from human text at each evaluation of a run that has one, by step."""
    lines = read_metrics(folder / "metrics.jsonl")
    return {line["step"]: line[DISTANCE] for line in lines if DISTANCE in line}


def is_exhausted(distances: Mapping[int, float], patience: int) -> bool:
    """Whether `patience` evaluations or more came after the one with the lowest distance, the first of equal ones."""
    ranked = rank(distances)
    return bool(ranked) and sum(step > ranked[0] for step in distances) >= patience


def ended_early(folder: Path, human: dict | None, newest: int) -> bool:
    """Whether a run whose newest checkpoint is of this step ended for this reason. `human`: of its config, as JSON."""
    if not human or not human["patience"]:
        return False
    distances = read_distances(folder)
    return is_exhausted(distances, human["patience"]) and newest >= max(distances)
