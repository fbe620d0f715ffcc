"""Samples texts at each evaluation into RUN/samples/STEP.txt. A signal ends it between two dispatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from train import processes
from train.events import Evaluated, Event, Paused, Sampled, Started
from train.run import Run


class Samples:
    """Generates texts by `write(model, experiment)`, which yields them as they grow: the decoder is the caller's.

    All processes of a run generate together; process 0 writes the texts into `folder`.
    """

    def __init__(self, folder: Path, write: Callable[..., Iterator[list[str]]]):
        self.folder, self.write, self.missing = folder, write, False

    def __call__(self, run: Run, event: Event) -> None:
        if not run.experiment.evaluation.samples:
            return
        match event:
            case Started(step):  # a signal may have stopped the run between both
                self.missing = step in run.scores and not processes.broadcast_from_first(
                    lambda: self.file(step).is_file()
                )
            case Paused(step) if self.missing:
                self.sample(run, step)
                self.missing = False
            case Evaluated(step):
                self.sample(run, step)

    def sample(self, run: Run, step: int) -> None:
        *_, texts = run.until_stopped(self.write(run.state.evaluation_model, run.experiment))
        if run.stop:  # the texts are generated when the run goes on
            return
        if processes.index() == 0:
            self.folder.mkdir(exist_ok=True)
            temporary = self.folder / f"{step}.written"
            temporary.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
            temporary.replace(self.file(step))
        run.emit(Sampled(step, texts[0]))

    def file(self, step: int) -> Path:
        return self.folder / f"{step}.txt"
