"""Logs which tests ran and for how long: a line of JSON for each start and end, which tests/suite.py reads."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

SLOW_FILE_SECONDS = 60.0  # of a file's quick tests, above which it is reported


class Log:
    """A pytest plugin that writes the lines to `file`. Of pytest-xdist's processes only the controller has it."""

    def __init__(self, file: Path):
        self.file, self.seconds = file, defaultdict(float)

    def write(self, **line) -> None:
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(test=nodeid, began=time.time())

    def pytest_runtest_logreport(self, report) -> None:
        test = report.nodeid
        self.seconds[test] += report.duration
        if report.when == "teardown" or "crashed" in str(report.longrepr or ""):
            self.write(test=test, seconds=self.seconds.pop(test))


def read(file: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each test that ended, and the start times of those that did not."""
    ended, running = {}, {}
    for line in map(json.loads, file.read_text().splitlines() if file.is_file() else []):
        if "began" in line:
            running[line["test"]] = line["began"]
        else:
            running.pop(line["test"], None)
            ended[line["test"]] = line["seconds"]
    return ended, running


def seconds_by_file(ended: dict[str, float]) -> dict[str, list[float]]:
    """Seconds of each file's tests."""
    files: dict[str, list[float]] = defaultdict(list)
    for test, seconds in ended.items():
        files[test.partition("::")[0]].append(seconds)
    return files


def table(ended: dict[str, float]) -> list[str]:
    """Files by seconds, with the number of their tests."""
    ranked = sorted(seconds_by_file(ended).items(), key=lambda item: -sum(item[1]))
    rows = [f"{sum(seconds):8.1f} s {len(seconds):5}  {name}" for name, seconds in ranked]
    return [" seconds  tests  file", *rows, f"{sum(ended.values()):8.1f} s {len(ended):5}  all"]


def slowest(ended: dict[str, float], count: int = 10) -> list[str]:
    return [f"{ended[test]:8.1f} s  {test}" for test in sorted(ended, key=ended.get, reverse=True)[:count]]


def slow_files(ended: dict[str, float]) -> list[str]:
    """Files whose tests together take longer than SLOW_FILE_SECONDS."""
    files = {name: sum(seconds) for name, seconds in seconds_by_file(ended).items()}
    return [
        f"{name}: its quick tests take {s:.0f} s, over {SLOW_FILE_SECONDS:.0f}"
        for name, s in files.items()
        if s > SLOW_FILE_SECONDS
    ]
