"""What the model writes at each evaluation: RUN/samples/STEP.txt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from train.events import Evaluated, Event, Sampled
from train.run import Run


class Samples:
    """`write(model, step)` returns the texts; how they are made is the decoder's business.

    All processes of a run write together. `folder` is None where another one keeps the texts.
    """

    def __init__(self, folder: Path | None, write: Callable):
        self.folder, self.write = folder, write

    def __call__(self, run: Run, event: Event) -> None:
        if not isinstance(event, Evaluated) or not run.experiment.evaluation.samples:
            return
        texts = self.write(run.state.best, run.experiment)
        if self.folder:
            self.folder.mkdir(exist_ok=True)
            (self.folder / f"{event.step}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        run.tell(Sampled(event.step, texts[0]))
