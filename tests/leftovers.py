"""Finds and ends the processes that a test started and left running. Called by tests/conftest.py and tests/suite.py."""

from __future__ import annotations

import ctypes
import signal
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
RESOURCE_TRACKER = "multiprocessing.resource_tracker"  # ends with the process that started it
EXIT_SECONDS = 5.0  # that an aborted process has to print its stacks


def become_subreaper() -> None:
    """Makes this process the parent of every descendant whose own parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def running_descendants() -> set[psutil.Process]:
    """All descendants of this process that are alive."""
    descendants = psutil.Process().children(recursive=True)
    return {process for process in descendants if is_running(process)}


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and RESOURCE_TRACKER not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def started_since(before: set[psutil.Process]) -> list[psutil.Process]:
    """The running descendants that are neither among those of `before` nor descend from them."""

    def is_new(process: psutil.Process) -> bool:
        try:
            return before.isdisjoint(process.parents())
        except psutil.NoSuchProcess:
            return False

    return list(filter(is_new, running_descendants() - before))


def kill_started_since(before: set[psutil.Process], signal_number: int = signal.SIGKILL) -> list[str]:
    """Sends the signal to what was started since `before`, kills what is left, and returns the commands.

    At SIGABRT, Python processes with PYTHONFAULTHANDLER set print their stacks first.
    """
    processes = started_since(before)
    commands = []
    for process in processes:
        try:
            commands.append(" ".join(process.cmdline())[:200])
            process.send_signal(signal_number)
        except psutil.NoSuchProcess:
            continue
    wait_until_ended(processes)
    for process in filter(is_running, processes):
        process.kill()
    return commands


def wait_until_ended(processes: list[psutil.Process]) -> None:
    """Waits for them, EXIT_SECONDS at most. Their exit statuses are left for their parents to collect."""
    deadline = time.monotonic() + EXIT_SECONDS
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
