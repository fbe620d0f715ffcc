"""Shows progress to a person: a live line on a terminal, plain lines where there is none. All on standard error."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from model import schedule
from train.events import Ended, Evaluated, Event, Measured, Sampled, Saved, Started
from train.run import Run

PLAIN_EVERY = 10.0  # seconds between plain lines of training progress
BAR_WIDTH = 28


class ConsoleProgress:
    """Prints progress (step, loss, tokens/s, utilization, time left), evaluations, samples, checkpoints.

    `utilization(tokens a second)` returns the share of the devices' peak FLOP/s, or None where that is not known.
    """

    def __init__(self, utilization, stream=None):
        self.utilization = utilization
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self.live: Live | None = None
        self.printed = time.monotonic()
        self.speed, self.compiled = 0.0, False

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                self.show_start(run, step)
            case Measured(steps):
                self.show_progress(run, steps)
            case Evaluated(step, values):
                self.say(f"[bold]step {step:>6}[/]  validation {run.program.objective.describe(values)}")
            case Sampled(step, text) if self.console.is_terminal:
                self.console.print(Panel(Text(text.strip()), title=f"written at step {step}", title_align="left"))
            case Saved(_, path):
                self.say(f"[dim]saved {escape(path)}[/]")
            case Ended(step, reason):
                self.close()
                if run.stop and not run.finished:
                    self.say(f"stopped by {reason} at step {step}; the same command goes on from there")

    def show_start(self, run: Run, step: int) -> None:
        devices = run.mesh.devices
        if step >= run.experiment.steps:
            self.say(f"{escape(str(run.folder))} is at its last step, {step}; --set steps={2 * step} would go on")
            return
        self.say(
            f"{run.experiment.name}: steps {step} to {run.experiment.steps} on {devices.size} "
            f"{devices.flat[0].device_kind} device{'s' if devices.size > 1 else ''}{describe_mesh(run)}, "
            f"{'products in bfloat16, ' if run.experiment.execution.precision == 'bfloat16' else ''}"
            f"into {escape(str(run.folder))}"
        )
        self.printed = 0.0  # the first loss is shown at once
        if self.console.is_terminal:
            self.live = Live(Text("compiling the step …"), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def show_progress(self, run: Run, steps: list[dict]) -> None:
        e, step = run.experiment, steps[-1]["step"]
        tokens = e.batch_size * e.data.length
        speed = tokens / steps[-1]["seconds"]
        if self.compiled:  # the first dispatch's time is the compiler's, for the most part
            self.speed = 0.8 * self.speed + 0.2 * speed if self.speed else speed
        self.compiled = True
        figures = f"loss {steps[-1]['train/loss']:.4f}"
        if self.speed:
            utilization = self.utilization(self.speed)
            figures += f"  {self.speed:,.0f} tokens/s" + (f"  MFU {utilization:.1%}" if utilization else "")
            figures += f"  {format_duration((e.steps - step) * tokens / self.speed)} left"
        if self.live:
            filled = round(BAR_WIDTH * step / e.steps)
            bar = f"[cyan]{'━' * filled}[/][dim]{'━' * (BAR_WIDTH - filled)}[/]"
            self.live.update(Text.from_markup(f"{bar} step {step}/{e.steps}  {figures}"))
        elif time.monotonic() - self.printed > PLAIN_EVERY or step == e.steps:
            self.printed = time.monotonic()
            self.say(f"step {step:>6}/{e.steps}  {figures}")

    def close(self) -> None:
        """Gives the terminal back."""
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)


def describe_mesh(run: Run) -> str:
    """The mesh and the bubble of its pipeline, as text; empty where only rows are split."""
    axes = {axis: size for axis, size in run.mesh.shape.items() if size > 1}
    if not axes.keys() - {"replica", "data"}:
        return ""
    text = " x ".join(f"{axis}={size}" for axis, size in axes.items())
    if "stage" in axes:
        count = run.program.pipeline_microbatches()
        text += f"; {count} microbatches in the pipeline, bubble {schedule.bubble_share(count, axes['stage']):.0%}"
    return f" ({text})"


def format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
