"""Processes that a test started end with it, however it ends. Called by tests/conftest.py and tests/suite.py."""

from __future__ import annotations

import ctypes
import signal
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
OURS = "multiprocessing.resource_tracker"  # multiprocessing's own; it ends with the process that has it
PATIENCE = 5.0  # seconds that an aborted process has to print its stacks


def adopt() -> None:
    """From now on this process is the parent of whatever its descendants leave without one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def running() -> set[psutil.Process]:
    """All descendants of this process that are alive."""
    found = psutil.Process().children(recursive=True)
    return {process for process in found if counts(process)}


def counts(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and OURS not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def since(before: set[psutil.Process]) -> list[psutil.Process]:
    """The descendants that are not among those of `before`, nor children of these."""

    def new(process: psutil.Process) -> bool:
        try:
            return before.isdisjoint(process.parents())
        except psutil.NoSuchProcess:
            return False

    return list(filter(new, running() - before))


def end(before: set[psutil.Process], number: int = signal.SIGKILL) -> list[str]:
    """Ends what was started since `before`, and returns the commands.

    SIGABRT: those that are Python, with PYTHONFAULTHANDLER set, print their stacks first.
    """
    new = since(before)
    commands = []
    for process in new:
        try:
            commands.append(" ".join(process.cmdline())[:200])
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    ended(new)
    for process in filter(counts, new):
        process.kill()
    return commands


def ended(processes: list[psutil.Process]) -> None:
    """Waits for them, PATIENCE at most. What became of each stays for its parent to ask."""
    deadline = time.monotonic() + PATIENCE
    while any(map(counts, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
