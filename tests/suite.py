"""The whole suite in phases, within a budget: `bash launch/local.sh test` and .ci/run start it.

Quick tests run on every core, then one after another those marked `alone`, then a share of those marked `slow`.
SUITE_SECONDS (3600): after these, whatever still runs is shown and ended. SLOW_SHARE (none): from 0 to 1, or `all`.
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
    """Name and arguments of each: the first on every core, a file's tests on one (conftest.FileScheduling)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    every_core = [
        f"--numprocesses={cores}",
        "--dist=loadscope",
        "--no-loadscope-reorder",
        "-m",
        "not slow and not alone",
    ]
    phase_arguments = [("quick tests", every_core), ("tests that run alone", ["-m", "alone and not slow"])]
    if os.environ.get("SLOW_SHARE", "none") != "none":
        phase_arguments.append(("a share of the slow tests", ["-m", "slow", "-v"]))
    return phase_arguments


def select_slow_tests(slow_tests: list) -> list:
    """The share of slow tests that SLOW_SHARE asks for, by a hash of commit and name, within SLOW_SECONDS."""
    share = os.environ.get("SLOW_SHARE", "all")
    if share == "all":
        return slow_tests
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    slow_tests = sorted(slow_tests, key=lambda item: hashlib.sha256(f"{head} {item.nodeid}".encode()).hexdigest())
    selected, seconds_left = [], SLOW_SECONDS
    for item in slow_tests[: math.ceil(float(share) * len(slow_tests)) if share != "none" else 0]:
        seconds = item.get_closest_marker("slow").args[0]
        if seconds <= seconds_left:
            selected.append(item)
            seconds_left -= seconds
    return selected


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    leftovers.become_subreaper()
    deadline = time.monotonic() + number_from_environment("SUITE_SECONDS", "3600", {})
    number_from_environment("SLOW_SHARE", "none", {"none": 0.0, "all": 1.0})
    with tempfile.TemporaryDirectory(prefix="skald-suite-", ignore_cleanup_errors=True) as name:
        folder, failed, quick = Path(name), [], {}
        try:
            for index, (phase, arguments) in enumerate(phases()):
                started, log = time.monotonic(), folder / f"{index}.log"
                status = run_phase(arguments, folder, log, deadline)
                report(f"{phase}: {time.monotonic() - started:.0f} s")
                ended, running = timings.read(log)
                if status is None:
                    return report_overrun(running, ended)
                if status and not (status == 5 and "slow" in phase):  # 5: no test was collected, as in a small share
                    failed.append(phase)
                    report(*(f"had not ended: {test}" for test in running))
                quick |= ended if "slow" not in phase else {}
        finally:
            leftovers.kill_started_since(set())
    print("\n".join(timings.table(quick)), flush=True)
    report(*timings.slow_files(quick))
    report("failed: " + ", ".join(failed) if failed else "all phases passed")
    return 1 if failed else 0


def number_from_environment(variable: str, default: str, names: dict[str, float]) -> float:
    """An environment variable as a number, or as what `names` has for it; exits with one line where it is neither."""
    value = os.environ.get(variable, default)
    try:
        return names[value] if value in names else float(value)
    except ValueError:
        expected = " or ".join(["a number", *names])
        sys.exit(f"suite: {variable}={value}: wanted {expected}")


def report(*lines: str) -> None:
    for line in lines:
        print(f"suite: {line}", flush=True)


def run_phase(arguments: list[str], folder: Path, log: Path, deadline: float) -> int | None:
    """Runs pytest and returns its exit status; None where the budget ended first, and it still runs."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", "SUITE_FOLDER": str(folder), "SUITE_LOG": str(log)}
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def report_overrun(running: dict[str, float], ended: dict[str, float]) -> int:
    """Reports where every process is, and which tests ran; main ends them."""
    report("over its budget (SUITE_SECONDS). Every Python process, as it is now:")
    for process in sorted(leftovers.running_descendants(), key=lambda process: process.pid):
        dump_stacks(process)
    report(*(f"was running, for {time.time() - began:.0f} s: {test}" for test, began in running.items()))
    report(f"{len(ended)} tests had ended; their files, and the ten slowest:")
    print("\n".join([*timings.table(ended), *timings.slowest(ended)]), flush=True)
    return 1


def dump_stacks(process: psutil.Process) -> None:
    """Prints a process's stacks by py-spy; where that is not allowed, the process prints them to its standard error."""
    try:
        if "python" not in Path(process.exe()).name:  # not by its name, which may be skald
            return
        print(f"\n--- {process.pid}: {' '.join(process.cmdline())[:300]}", flush=True)
        command = [Path(sys.executable).with_name("py-spy"), "dump", "--pid", str(process.pid)]
        result = subprocess.run(command, timeout=30)
        if result.returncode:
            process.send_signal(signal.SIGABRT)
            leftovers.wait_until_ended([process])
    except (psutil.Error, OSError, subprocess.TimeoutExpired) as error:
        print(f"    no stack: {error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
