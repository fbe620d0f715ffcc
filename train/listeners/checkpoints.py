"""Saves the state at every checkpoint step, at the end and on a signal."""

from __future__ import annotations

from train.checkpoint import Checkpoints
from train.events import Ended, Event, Paused, Saved, Started
from train.run import Run


class Saving:
    """`about` is what every checkpoint says of itself besides step and scores: config, tokenizer, fingerprints."""

    def __init__(self, checkpoints: Checkpoints, about: dict):
        self.checkpoints, self.about, self.saved = checkpoints, about, 0

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                self.saved = step
            case Paused(step) if step % run.experiment.checkpoints.every == 0 and step > self.saved:
                self.save(run, step)
            case Ended(step):
                if step > self.saved:
                    self.save(run, step)
                self.checkpoints.wait()

    def save(self, run: Run, step: int) -> None:
        self.checkpoints.save(step, run.state, self.about, run.scores.get(step))
        self.saved = step
        run.tell(Saved(step, str(self.checkpoints.folder / str(step))))
