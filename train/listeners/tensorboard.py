"""Writes metrics and samples for TensorBoard, under RUN/tensorboard/."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from train.events import Ended, Evaluated, Event, Measured, Sampled, Started
from train.run import Run


class TensorBoard:
    """Hands events to a thread that writes them. Its import alone takes half a second, and two where PyTorch is
    installed: the devices train meanwhile. An error there is raised at the next event, or by `close`."""

    def __init__(self, folder: Path):
        self.folder, self.events = folder, SimpleQueue()
        self.thread, self.written = ThreadPoolExecutor(1, "tensorboard"), None

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                self.written = self.thread.submit(self.write, step)
            case Measured() | Evaluated() | Sampled():
                if self.written.done():  # before it was told to end
                    self.close()
                self.events.put(event)
            case Ended():
                self.close()

    def write(self, first_step: int) -> None:
        """Writes all events until there is a None."""
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(self.folder), purge_step=first_step + 1 if first_step else None) as writer:
            for event in iter(self.events.get, None):
                match event:
                    case Measured(steps):
                        for values in steps:
                            for name in values.keys() - {"step", "seconds"}:
                                writer.add_scalar(name, values[name], values["step"])
                    case Evaluated(step, values):
                        for name, value in values.items():
                            writer.add_scalar(name, value, step)
                    case Sampled(step, text):
                        writer.add_text("sample", text, step)

    def close(self) -> None:
        """Ends the thread, however the run ended: else the writer's own fail as the interpreter ends (Python 3.12)."""
        if self.written:
            self.events.put(None)
            written, self.written = self.written, None
            self.thread.shutdown()
            written.result()
