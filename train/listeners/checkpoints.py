"""Saves the state at every checkpoint step, at the end and on a signal."""

from __future__ import annotations

from train.checkpoint import Checkpoints
from train.events import Ended, Evaluated, Event, Paused, Saved, Started
from train.run import Run


class CheckpointSaver:
    """`about` is what every checkpoint says of itself besides step and scores: config, tokenizer, fingerprints.

    A save runs beside training; it is told once it is published, and its failure is raised at the next event.
    """

    def __init__(self, checkpoints: Checkpoints, metadata: dict):
        self.checkpoints, self.metadata, self.saved, self.announced = checkpoints, metadata, 0, 0

    def __call__(self, run: Run, event: Event) -> None:
        if self.announced < self.saved and self.checkpoints.is_published():
            self.announce(run)
        match event:
            case Started(step):
                self.saved = self.announced = step
            case Evaluated(step, values) if step == self.saved:  # a signal came between its saving and its score
                self.checkpoints.score(step, values)
            case Paused(step) if step % run.experiment.checkpoints.every == 0 and step > self.saved:
                self.save(run, step)
            case Ended(step):
                if step > self.saved:
                    self.save(run, step)
                self.checkpoints.wait()
                if self.announced < self.saved:
                    self.announce(run)

    def save(self, run: Run, step: int) -> None:
        self.checkpoints.save(step, run.state, self.metadata, run.scores.get(step))
        self.saved = step

    def announce(self, run: Run) -> None:
        self.announced = self.saved
        run.emit(Saved(self.saved, str(self.checkpoints.folder / str(self.saved))))
