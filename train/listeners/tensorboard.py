"""Writes metrics and samples for TensorBoard, under RUN/tensorboard/."""

from __future__ import annotations

from pathlib import Path

from train.events import Ended, Evaluated, Event, Measured, Sampled, Started
from train.run import Run


class TensorBoard:
    def __init__(self, folder: Path):
        self.folder, self.writer = folder, None

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                from tensorboardX import SummaryWriter  # half a second to import: after everything else is under way

                self.writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
            case Measured(steps):
                for values in steps:
                    for name in values.keys() - {"step", "seconds"}:
                        self.writer.add_scalar(name, values[name], values["step"])
            case Evaluated(step, values):
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)
            case Sampled(step, text):
                self.writer.add_text("sample", text, step)
            case Ended():
                self.close()

    def close(self) -> None:
        """Closes the writer, however the run ended: else its threads fail at the interpreter's exit (Python 3.12)."""
        if self.writer:
            self.writer.close()
            self.writer = None
