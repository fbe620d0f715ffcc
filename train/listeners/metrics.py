"""Writes and reads RUN/metrics.jsonl: a JSON object a line, each step once, whatever was killed."""

from __future__ import annotations

import json
from pathlib import Path

from train.events import Ended, Evaluated, Event, Measured, Paused, Started
from train.objective import training_flops
from train.run import Run, RunError


class MetricsFile:
    """Writes a line a step. Lines wait until their step's evaluation is known, so that both are on one line.

    `peak`: the devices' peak FLOP/s together, or None where it is not known.
    """

    def __init__(self, file: Path, peak: float | None):
        self.file, self.peak, self.pending = file, peak, {}

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                truncate_after(self.file, step)
            case Measured(steps):
                self.flush()
                self.pending = {values["step"]: self.line(run, values) for values in steps}
            case Evaluated(step, values) if step in self.pending:
                self.pending[step].update(values)
            case Evaluated(step, values):  # its line was written before a signal stopped the run there
                rewrite_lines(
                    self.file, [line | values if line["step"] == step else line for line in read_metrics(self.file)]
                )
            case Paused() | Ended():
                self.flush()

    def line(self, run: Run, values: dict) -> dict:
        e = run.experiment
        tokens = e.batch_size * e.data.length
        speed = tokens / values["seconds"]
        line = {"step": values["step"], "tokens": values["step"] * tokens}
        line |= {name: value for name, value in values.items() if name not in ("step", "seconds")}
        line |= {"tokens_per_second": round(speed, 1), "data_wait": round(values["data_wait"], 4)}
        if self.peak:
            flops = training_flops(e)
            line["model_flops_utilization"] = speed * flops / self.peak
        return line

    def flush(self) -> None:
        if not self.pending:
            return
        with self.file.open("a") as out:
            out.writelines(json.dumps(line) + "\n" for line in self.pending.values())
        self.pending = {}


def read_metrics(file: Path) -> list[dict]:
    """All complete lines; a last line that was cut off is left out."""
    lines = file.read_text().split("\n") if file.is_file() else []
    try:
        records = [json.loads(line) for line in lines[:-1]]
        if not all(isinstance(record["step"], int) for record in records):
            raise ValueError("a step is no number")
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{file} holds a line that no run wrote; move it away, or take another --run-dir") from None
    return records


def truncate_after(file: Path, step: int) -> None:
    """Drops the lines after `step`, and one that was cut off: the run goes on from there."""
    if file.is_file():
        rewrite_lines(file, [line for line in read_metrics(file) if line["step"] <= step])


def rewrite_lines(file: Path, lines: list[dict]) -> None:
    temporary = file.with_suffix(".rewritten")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(file)
