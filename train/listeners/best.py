"""Reports where RUN@best is not the best evaluation: at the start if that may happen, at the end if it did."""

from __future__ import annotations

from collections.abc import Callable

from train.checkpoint_folder import best_step, rank, saved_scores
from train.config import Experiment
from train.events import Ended, Event, Started
from train.listeners.metrics import read_metrics
from train.run import Run


class BestCheckpoint:
    """Calls `report` with each line. For process 0 alone: it reads the run's folder."""

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
        """Reports where the best evaluation in metrics.jsonl is better than the best checkpoint."""
        losses = {line["step"]: line.get("eval/loss") for line in read_metrics(run.folder / "metrics.jsonl")}
        saved_losses, saved = saved_scores(run.folder), best_step(run.folder)
        best = next(iter(rank(losses)), None)
        if best is None or (saved is not None and saved_losses[saved] <= losses[best]):
            return
        instead = "no checkpoint has a score" if saved is None else f"@best is step {saved} ({saved_losses[saved]:.4f})"
        self.report(f"the best evaluation, {losses[best]:.4f} at step {best}, was not saved; {instead}")


def misses_evaluations(experiment: Experiment) -> bool:
    """Whether an evaluation falls on a step that is not saved. The last step is evaluated and saved."""
    every = experiment.evaluation.every
    return every < experiment.steps and every % experiment.checkpoints.every != 0


def suggested_interval(experiment: Experiment) -> int:
    """A checkpoints.every that misses no evaluation: the divisor of evaluation.every nearest to it by ratio."""
    every, interval = experiment.evaluation.every, experiment.checkpoints.every
    divisors = [d for d in range(1, every + 1) if every % d == 0]
    return min(divisors, key=lambda d: max(d, interval) / min(d, interval))
