"""The attempts of a run: each is one process 0, from its start to its end. train/card.py adds them up.

An attempt that was killed is settled when the run goes on: what it did behind the checkpoint is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from train.config import Experiment
from train.goodput import KINDS
from train.listeners.metrics import read_metrics
from train.run import RunError

VERSION = 1
FILE = "card.json"
RUNNING, FAILED = "running", "failed"  # how an attempt ended: not yet, or by a kill that is not settled; by an error
KILLED = "killed"  # settled
BEAT = 60.0  # seconds between signs of life, by which a killed attempt's time is known
LOSABLE = ("step", "data", "compile")  # where the seconds of a step were counted that turns out to be lost


@dataclass
class Attempt:
    """What one attempt spent. `seconds` by kind and `wall_seconds` are those up to `step`, the newest one that is saved
    or, of an attempt that has ended, the last one; `seen_seconds`: how long it is known to have run.

    `reading` is that of the counters of energy from `counted_from` to `counted_to`, in seconds of this attempt; None:
    the card is of an older Skald, which did not say. `stated`: what the config states as the attempt begins
    (`stated_figures`); None on older cards."""

    number: int
    began: float  # seconds since 1970
    first_step: int
    step: int
    device: dict  # kind, count, platform, chips, rated_watts, peak_flops (of all; None: not known), processor
    wall_seconds: float = 0.0
    seen_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    lost_steps: int = 0
    reading: dict = field(default_factory=lambda: {"by_device": [], "complete": False})
    ended: str = RUNNING
    program_flops: float | None = None  # of a step, by the traced program; None: not counted
    counted_from: float | None = None
    counted_to: float | None = None
    stated: dict | None = None

    @property
    def wall(self) -> float:
        return max(self.wall_seconds, self.seen_seconds)

    def figures(self, e: Experiment) -> dict:
        """What the config stated as the attempt began; where an older card does not say it, what `e` states."""
        return self.stated or stated_figures(e)

    @property
    def unread(self) -> float:
        """Seconds at the end in which its counters of energy were not read; all, where a card does not say so of an
        attempt that did not end by itself."""
        if self.counted_to is None:
            return self.wall if self.ended in (RUNNING, FAILED, KILLED) else 0.0
        return max(0.0, self.wall - self.counted_to)

    @property
    def busy(self) -> float:
        """Seconds in which the devices computed, about."""
        return sum(self.seconds[kind] for kind in ("step", "evaluation", "lost"))

    def add_kept(self, line: dict, tokens: int) -> None:
        """Adds a step that a line of metrics.jsonl tells of, whose checkpoint was published and not yet on the card."""
        seconds = tokens / line["tokens_per_second"]
        waited = seconds * line["data_wait"]
        self.seconds["data"] += waited
        self.seconds["step"] += seconds - waited
        self.wall_seconds += seconds

    def lose_counted(self, line: dict, tokens: int) -> None:
        """Moves the seconds of a step to `lost`, from where they were counted."""
        seconds = tokens / line["tokens_per_second"]
        for kind in LOSABLE:
            moved = min(seconds, self.seconds[kind])
            self.seconds[kind] -= moved
            self.seconds["lost"] += moved
            seconds -= moved


def stated_figures(e: Experiment) -> dict:
    """What a config states of a chip's power and price, which may be another on resuming."""
    watts = {"chip_watts": e.energy.chip_watts, "chip_idle_watts": e.energy.chip_idle_watts}
    return {**watts, "chip_hour": e.chip_hour}


def settle(attempts: list[Attempt], lines: Iterable[dict], restored: int, tokens: int) -> None:
    """Brings attempts up to date as the run goes on from step `restored`: what they did behind it is lost.

    `lines`: of metrics.jsonl behind the first step that may be lost or is not yet counted; `tokens` of a step. What a
    killed attempt did behind the last line, but for what `seen_seconds` knows of it, nobody knows.
    """
    lines = list(lines)
    for attempt in attempts:
        last, counted = attempt is attempts[-1], attempt.step
        own = [line for line in lines if attempt.first_step < line["step"] and (last or line["step"] <= counted)]
        for line in own:
            if line["step"] <= counted and line["step"] > restored:
                attempt.lose_counted(line, tokens)
            elif line["step"] > counted and line["step"] <= restored:
                attempt.add_kept(line, tokens)
        behind = sum(tokens / line["tokens_per_second"] for line in own if line["step"] > max(counted, restored))
        unsaved = max(attempt.wall_seconds + behind, attempt.seen_seconds) - attempt.wall_seconds  # 0 after a good end
        attempt.seconds["lost"] += unsaved
        attempt.wall_seconds += unsaved
        attempt.ended = KILLED if attempt.ended == RUNNING else attempt.ended
        attempt.lost_steps += sum(line["step"] > restored for line in own)
        attempt.step = max(attempt.first_step, restored) if last else min(counted, max(attempt.first_step, restored))


def read_attempts(file: Path) -> list[Attempt]:
    """The attempts that a card tells of. Raises RunError."""
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text())
        if content["version"] == VERSION:
            return [Attempt(**attempt) for attempt in content["attempts"]]
    except (ValueError, KeyError, TypeError):
        pass
    raise RunError(f"{file} is not a card that this version of Skald wrote; move it away: a new one begins")


def settled_attempts(folder: Path, restored: int, tokens: int) -> list[Attempt]:
    """Like `read_attempts`, settled for a run that goes on from step `restored`: before its metrics.jsonl is cut."""
    attempts = read_attempts(folder / FILE)
    if attempts and (attempts[-1].ended in (RUNNING, FAILED) or max(a.step for a in attempts) > restored):
        counted = min(restored, attempts[-1].step)
        settle(attempts, (line for line in read_metrics(folder / "metrics.jsonl") if line["step"] > counted), restored,
               tokens)  # fmt: skip
    return attempts
