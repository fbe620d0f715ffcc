"""Saves the state at every checkpoint step, at the end and on a signal."""

from __future__ import annotations

from train.checkpoint import Checkpoints
from train.events import Ended, Evaluated, Event, Paused, Saved, Started
from train.run import Run


class Saving:
    """`about` is what every checkpoint says of itself besides step and scores: config, tokenizer, fingerprints.

    A save runs beside training; it is told once it is published, and its failure is raised at the next event.
    """

    def __init__(self, checkpoints: Checkpoints, about: dict):
        self.checkpoints, self.about, self.saved, self.told = checkpoints, about, 0, 0

    def __call__(self, run: Run, event: Event) -> None:
        if self.told < self.saved and self.checkpoints.published():
            self.tell(run)
        match event:
            case Started(step):
                self.saved = self.told = step
            case Evaluated(step, values) if step == self.saved:  # a signal came between its saving and its score
                self.checkpoints.score(step, values)
            case Paused(step) if step % run.experiment.checkpoints.every == 0 and step > self.saved:
                self.save(run, step)
            case Ended(step):
                if step > self.saved:
                    self.save(run, step)
                self.checkpoints.wait()
                if self.told < self.saved:
                    self.tell(run)

    def save(self, run: Run, step: int) -> None:
        self.checkpoints.save(step, run.state, self.about, run.scores.get(step))
        self.saved = step

    def tell(self, run: Run) -> None:
        self.told = self.saved
        run.tell(Saved(self.saved, str(self.checkpoints.folder / str(self.saved))))
