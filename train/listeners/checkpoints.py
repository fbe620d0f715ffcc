"""Saves the state at every checkpoint step, at the end and on a signal."""

from __future__ import annotations

from train.checkpoint import Checkpoints
from train.events import Ended, Evaluated, Event, Paused, Saved, Started
from train.run import Run


class CheckpointSaver:
    """Saves the run's state with `metadata` (config, tokenizer, fingerprints), to which step and scores are added.

    A save runs beside training. `Saved` is emitted once it is published; its failure is raised at the next event.
    """

    def __init__(self, checkpoints: Checkpoints, metadata: dict):
        self.checkpoints, self.metadata, self.saved_step, self.announced_step = checkpoints, metadata, 0, 0

    def __call__(self, run: Run, event: Event) -> None:
        if self.announced_step < self.saved_step and self.checkpoints.is_published():
            self.announce(run)
        match event:
            case Started(step):
                self.saved_step = self.announced_step = step
            case Evaluated(step, values) if step == self.saved_step:  # a signal stopped the run between save and score
                self.checkpoints.score(step, values)
            case Paused(step) if step % run.experiment.checkpoints.every == 0 and step > self.saved_step:
                self.save(run, step)
            case Ended(step):
                if step > self.saved_step:
                    self.save(run, step)
                self.checkpoints.wait()
                if self.announced_step < self.saved_step:
                    self.announce(run)

    def save(self, run: Run, step: int) -> None:
        self.checkpoints.save(step, run.state, self.metadata, run.scores.get(step))
        self.saved_step = step

    def announce(self, run: Run) -> None:
        self.announced_step = self.saved_step
        run.emit(Saved(self.saved_step, str(self.checkpoints.folder / str(self.saved_step))))
