"""Processes of `skald` that begin with everything imported, which takes three seconds: forks of one that did it once.

What they do is done as in any process of its own, signals and exit included. That commands work from their first import
on is for the tests that ask for `fresh` processes. Linux only: the forks become children of pytest's (leftovers.adopt).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = ("configs", "train", "generate", "evaluate", "plan", "bench")


class Zygote:
    """`start` gives what subprocess.Popen would, as far as tests use it."""

    def __init__(self, root: Path, environment: dict[str, str]):
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, env={**environment, "PYTHONPATH": str(root)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Forked:
        out, err = (tempfile.mkstemp(prefix="skald-")[1] for _ in range(2))
        given = {"argv": arguments, "env": environment, "cwd": str(folder), "out": out, "err": err}
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return Forked(int(self.process.stdout.readline()), out, err)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Forked:
    def __init__(self, pid: int, out: str, err: str):
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr = open(out, errors="replace"), open(err, errors="replace")  # noqa: SIM115
        for name in (out, err):
            os.unlink(name)

    def poll(self) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()


def serve() -> None:
    """A line of JSON in, a process id out. The process itself returns from here, with all set for its command."""
    while line := sys.stdin.readline():
        read, write = os.pipe()
        if os.fork():  # the middle one ends at once: its child becomes pytest's
            os.close(write)
            with os.fdopen(read) as said:
                pid = said.read()
            os.wait()
            print(pid, flush=True)
            continue
        if os.fork():
            os._exit(0)
        os.close(read)
        become(json.loads(line))
        with os.fdopen(write, "w") as said:
            said.write(str(os.getpid()))
        return
    os._exit(0)


def become(given: dict) -> None:
    os.environ.clear()
    os.environ.update(given["env"])
    os.chdir(given["cwd"])
    for number, name in enumerate((os.devnull, given["out"], given["err"])):
        opened = os.open(name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv[1:] = given["argv"]


if __name__ == "__main__":
    import importlib

    for name in COMMANDS:
        importlib.import_module(f"launch.commands.{name}")
    from launch.cli import main

    serve()
    sys.exit(main(sys.argv[1:]))
