"""Starts `skald` by forking a process that has imported everything, which saves three seconds for each command.

A fork behaves as any other process, signals and exit included. Whether commands work from their first import on is left
to tests that use `fresh`. Linux only: forks become children of pytest's process (leftovers.become_subreaper).
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

COMMANDS = (
    "configs",
    "train",
    "generate",
    "evaluate",
    "prepare",
    "data",
    "cache",
    "plan",
    "import_checkpoint",
    "export_checkpoint",
    "bench",
)


class Zygote:
    """The process that forks. `start` returns what subprocess.Popen would, as far as tests use it."""

    def __init__(self, root: Path, environment: dict[str, str]):
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, env={**environment, "PYTHONPATH": str(root)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, arguments: list[str], environment: dict[str, str], folder: Path) -> ForkedProcess:
        out, err = (tempfile.mkstemp(prefix="skald-")[1] for _ in range(2))
        request = {"argv": arguments, "env": environment, "cwd": str(folder), "out": out, "err": err}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return ForkedProcess(int(self.process.stdout.readline()), out, err)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


class ForkedProcess:
    def __init__(self, pid: int, out: str, err: str):
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr = open(out, errors="replace"), open(err, errors="replace")  # noqa: SIM115
        for path in (out, err):
            os.unlink(path)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, signal_number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal_number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()


def serve() -> None:
    """Forks for each line of JSON on stdin, and prints the process id. In a fork it returns, set up for its command."""
    while line := sys.stdin.readline():
        read, write = os.pipe()
        if os.fork():  # the process between ends at once: its child becomes pytest's
            os.close(write)
            with os.fdopen(read) as pipe:
                pid = pipe.read()
            os.wait()
            print(pid, flush=True)
            continue
        if os.fork():
            os._exit(0)
        os.close(read)
        set_up_process(json.loads(line))
        with os.fdopen(write, "w") as pipe:
            pipe.write(str(os.getpid()))
        return
    os._exit(0)


def set_up_process(request: dict) -> None:
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for descriptor, name in enumerate((os.devnull, request["out"], request["err"])):
        file = os.open(name, os.O_WRONLY | os.O_APPEND if descriptor else os.O_RDONLY)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv[1:] = request["argv"]


if __name__ == "__main__":
    import importlib

    for name in COMMANDS:
        importlib.import_module(f"launch.commands.{name}")
    from launch.cli import main

    serve()
    sys.exit(main(sys.argv[1:]))
