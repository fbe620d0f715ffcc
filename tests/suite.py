"""The whole suite in phases, within a budget: `bash launch/local.sh test` and .ci/run start it.

Quick tests run on every core, then one after another those marked `alone`, then a share of those marked `slow`.
SUITE_SECONDS (3600): past them all that runs is shown and ended. SLOW_SHARE (none): a share from 0 to 1, or `all`.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import leftovers
import psutil
import timings

ROOT = Path(__file__).parents[1]
SLOW_SECONDS = 180  # of one run's share of slow tests, unless it asks for all


def phases() -> list[tuple[str, list[str]]]:
    """Name and arguments of each: the first on every core, a file's tests on one (tests/conftest.py: ByFile)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    every_core = [
        f"--numprocesses={cores}",
        "--dist=loadscope",
        "--no-loadscope-reorder",
        "-m",
        "not slow and not alone",
    ]
    found = [("quick tests", every_core), ("tests that run alone", ["-m", "alone and not slow"])]
    if os.environ.get("SLOW_SHARE", "none") != "none":
        found.append(("a share of the slow tests", ["-m", "slow", "-v"]))
    return found


def chosen(slow: list) -> list:
    """The share of slow tests that SLOW_SHARE asks for, by a hash of commit and name, within SLOW_SECONDS."""
    asked = os.environ.get("SLOW_SHARE", "all")
    if asked == "all":
        return slow
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    slow = sorted(slow, key=lambda item: hashlib.sha256(f"{head} {item.nodeid}".encode()).hexdigest())
    found, left = [], SLOW_SECONDS
    for item in slow[: math.ceil(float(asked) * len(slow)) if asked != "none" else 0]:
        seconds = item.get_closest_marker("slow").args[0]
        if seconds <= left:
            found.append(item)
            left -= seconds
    return found


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    leftovers.adopt()
    deadline = time.monotonic() + number("SUITE_SECONDS", "3600", {})
    number("SLOW_SHARE", "none", {"none": 0.0, "all": 1.0})
    with tempfile.TemporaryDirectory(prefix="skald-suite-", ignore_cleanup_errors=True) as name:
        folder, failed, quick = Path(name), [], {}
        try:
            for index, (what, arguments) in enumerate(phases()):
                started, log = time.monotonic(), folder / f"{index}.log"
                status = phase(arguments, folder, log, deadline)
                say(f"{what}: {time.monotonic() - started:.0f} s")
                ended, running = timings.read(log)
                if status is None:
                    return overrun(running, ended)
                if status and not (status == 5 and "slow" in what):  # 5: none was there, as in a small share
                    failed.append(what)
                    say(*(f"had not ended: {test}" for test in running))
                quick |= ended if "slow" not in what else {}
        finally:
            leftovers.end(set())
    print("\n".join(timings.table(quick)), flush=True)
    say(*timings.over(quick))
    say("failed: " + ", ".join(failed) if failed else "all phases passed")
    return 1 if failed else 0


def number(variable: str, default: str, words: dict[str, float]) -> float:
    """What the environment says there, as a number or one of `words`; ends with one line where it is neither."""
    given = os.environ.get(variable, default)
    try:
        return words[given] if given in words else float(given)
    except ValueError:
        wanted = " or ".join(["a number", *words])
        sys.exit(f"suite: {variable}={given}: wanted {wanted}")


def say(*lines: str) -> None:
    for line in lines:
        print(f"suite: {line}", flush=True)


def phase(arguments: list[str], folder: Path, log: Path, deadline: float) -> int | None:
    """pytest's exit status; None where the budget ended first, and it runs still."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "SUITE_FOLDER": str(folder), "SUITE_LOG": str(log)}
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def overrun(running: dict[str, float], ended: dict[str, float]) -> int:
    """Says where everything is; main ends it."""
    say("over its budget (SUITE_SECONDS). Every Python process, as it is now:")
    for process in sorted(leftovers.running(), key=lambda process: process.pid):
        stacks(process)
    say(*(f"was running, for {time.time() - began:.0f} s: {test}" for test, began in running.items()))
    say(f"{len(ended)} tests had ended; their files, and the ten slowest:")
    print("\n".join([*timings.table(ended), *timings.slowest(ended)]), flush=True)
    return 1


def stacks(process: psutil.Process) -> None:
    """By py-spy, from outside; where that is not allowed, by the process itself, which its own standard error gets."""
    try:
        if "python" not in Path(process.exe()).name:  # its own name may be skald
            return
        print(f"\n--- {process.pid}: {' '.join(process.cmdline())[:300]}", flush=True)
        command = [Path(sys.executable).with_name("py-spy"), "dump", "--pid", str(process.pid)]
        dumped = subprocess.run(command, timeout=30)
        if dumped.returncode:
            process.send_signal(signal.SIGABRT)
            leftovers.ended([process])
    except (psutil.Error, OSError, subprocess.TimeoutExpired) as error:
        print(f"    no stack: {error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
