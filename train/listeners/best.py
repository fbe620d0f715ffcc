"""Says where RUN@best is not the best evaluation: at the start where it may not be so, at the end where it is not."""

from __future__ import annotations

from collections.abc import Callable

from train.checkpoint_folder import best_step, rank_by_loss, validation_losses
from train.config import Experiment
from train.events import Ended, Event, Started
from train.listeners.metrics import read_metrics
from train.run import Run


class BestCheckpoint:
    """`report` is given the lines. Process 0's alone: it reads the run's folder."""

    def __init__(self, report: Callable[[str], None]):
        self.report = report

    def __call__(self, run: Run, event: Event) -> None:
        e = run.experiment
        if not e.checkpoints.keep_best:
            return
        match event:
            case Started(step) if step < e.steps and misses_evaluations(e):
                self.report(
                    f"evaluation.every={e.evaluation.every} and checkpoints.every={e.checkpoints.every} do not meet: "
                    f"a checkpoint that is not saved can't be @best; --set checkpoints.every={suggested_interval(e)} "
                    f"saves at every evaluation"
                )
            case Ended():
                self.compare(run)

    def compare(self, run: Run) -> None:
        """The best evaluation in the run's figures beside the best checkpoint."""
        scored = {line["step"]: line.get("eval/loss") for line in read_metrics(run.folder / "metrics.jsonl")}
        saved, kept = validation_losses(run.folder), best_step(run.folder)
        first = next(iter(rank_by_loss(scored)), None)
        if first is None or (kept is not None and saved[kept] <= scored[first]):
            return
        instead = "no checkpoint has a score" if kept is None else f"@best is step {kept} ({saved[kept]:.4f})"
        self.report(f"the best evaluation, {scored[first]:.4f} at step {first}, was not saved; {instead}")


def misses_evaluations(experiment: Experiment) -> bool:
    """Whether an evaluation falls on a step that is not saved. The last step is both."""
    every = experiment.evaluation.every
    return every < experiment.steps and every % experiment.checkpoints.every != 0


def suggested_interval(experiment: Experiment) -> int:
    """The divisor of evaluation.every nearest to checkpoints.every by ratio: saved so often, no evaluation is lost."""
    every, wanted = experiment.evaluation.every, experiment.checkpoints.every
    divisors = [d for d in range(1, every + 1) if every % d == 0]
    return min(divisors, key=lambda d: max(d, wanted) / min(d, wanted))
