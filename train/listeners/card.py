"""Keeps RUN/card.json: at the start, at every save, every minute, and at the end. Timed tells listeners' time apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train import processes
from train.attempts import BEAT, FAILED, Attempt
from train.card import Facts, card, recorded_generation, summary, write_card
from train.energy import merge_readings
from train.events import Advanced, Ended, Event, Measured, Paused, Saved, Started
from train.goodput import Account
from train.listeners.console import format_duration
from train.run import Run


class Timed:
    """A listener whose time in pauses counts as `kind`; between them the loop's own clock runs."""

    def __init__(self, account: Account, kind: str, listener: Callable):
        self.account, self.kind, self.listener = account, kind, listener

    def __call__(self, run: Run, event: Event) -> None:
        if isinstance(event, Measured):
            self.listener(run, event)
            return
        with self.account.spending(self.kind):
            self.listener(run, event)

    def close(self) -> None:
        getattr(self.listener, "close", lambda: None)()


class CardFile:
    """Writes the card of a run. It hears events after the checkpoints' listener, which saves.

    What is on the card of the attempt that runs are its figures up to the newest checkpoint: a killed run goes on from
    there. `read_energy` returns a reading (train/energy.py) of this process's devices; `count_flops` counts those of a
    step by its program, after a minute and in a thread. In other processes than the first, `attempts` is empty: they
    only give their readings. Attempts of an older card take over what the config states now. `closed` is called at the
    end.
    """

    def __init__(
        self,
        file: Path,
        facts: Facts,
        account: Account,
        attempts: list[Attempt],
        read_energy: Callable[[], dict],
        count_flops: Callable[[Run], float | None],
        report: Callable[[str], None],
        closed: Callable[[], None],
    ):
        self.file, self.facts, self.account, self.attempts = file, facts, account, attempts
        self.read_energy, self.count_flops, self.closed = read_energy, count_flops, closed
        self.report = report
        self.thread, self.program_flops = ThreadPoolExecutor(1, "flops"), None
        self.pauses: dict[int, dict] = {}  # step -> what was spent when the loop went on from there
        self.written = 0.0
        for attempt in attempts:
            attempt.stated = attempt.figures(facts.experiment)

    def __call__(self, run: Run, event: Event) -> None:
        match event:
            case Started(step):
                self.account.looping = True
                self.update(self.spent(step, self.gather()))
            case Measured(steps):
                self.account.add_steps(steps)
                if self.attempts and self.program_flops is None and self.account.wall >= BEAT:
                    self.program_flops = self.thread.submit(self.count_flops, run)
                self.beat()
            case Advanced():
                self.beat()
            case Paused(step) if step % run.experiment.checkpoints.every == 0:
                self.pauses[step] = self.spent(step, self.gather())
            case Saved(step) if step in self.pauses:
                self.update(self.pauses[step])
                self.pauses = {later: spent for later, spent in self.pauses.items() if later > step}
            case Ended(step, reason):
                self.account.looping = False
                self.update({**self.spent(step, self.gather()), "ended": reason})
                if self.attempts and reason == "done":
                    self.report(summary(self.content(), format_duration))

    def spent(self, step: int, reading: dict) -> dict:
        """Fields of an Attempt, as they are now."""
        return {
            "step": step,
            "wall_seconds": self.account.wall,
            "seconds": self.account.by_kind(),
            **self.counted(reading),
        }

    def counted(self, reading: dict) -> dict:
        """A reading as fields of an Attempt, with its time."""
        return {"reading": reading, "counted_to": self.account.wall}

    def counted_alone(self) -> dict:
        """This process's reading as it is now; nothing where there are others, which are all at one place only as the
        loop begins, pauses and ends."""
        return self.counted(self.read_energy()) if processes.count() == 1 else {}

    def gather(self) -> dict:
        """The counters of all processes, which all call this."""
        return merge_readings(processes.all_gather_json(self.read_energy()))

    def beat(self) -> None:
        """Writes a sign of life where the last is old."""
        if self.account.clock() - self.written >= BEAT:
            self.update(self.counted_alone())

    def update(self, spent: dict) -> None:
        self.written = self.account.clock()
        if not self.attempts:
            return
        counted = self.program_flops
        if counted and counted.done() and not counted.exception():
            spent = spent | {"program_flops": counted.result()}
        attempt = self.attempts[-1]
        if spent.get("counted_to", attempt.counted_to) < attempt.counted_to:  # a save tells of an earlier pause
            spent = spent | {"reading": attempt.reading, "counted_to": attempt.counted_to}
        for name, value in (spent | {"seen_seconds": self.account.wall}).items():
            setattr(attempt, name, value)
        with contextlib.suppress(OSError):  # a full disk: the next save is refused with a message, if it still is
            write_card(self.file, self.content())

    def content(self) -> dict:
        return card(self.facts, self.attempts, recorded_generation(self.file))

    def close(self) -> None:
        """Ends the attempt, if the loop did not: an error or a second Ctrl-C did."""
        if self.account.looping:
            self.account.looping = False
            self.update({**self.counted_alone(), "ended": FAILED})
        self.thread.shutdown(wait=False, cancel_futures=True)
        self.closed()


def new_attempt(number: int, first_step: int, device: dict, account: Account, counted_from: float = 0.0) -> Attempt:
    """An attempt that begins at a step. `device`, `counted_from`: as Attempt says."""
    began = time.time() - account.wall
    return Attempt(number, began, first_step, first_step, device, counted_from=counted_from, counted_to=counted_from)
