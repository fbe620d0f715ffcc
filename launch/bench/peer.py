"""A peer in a process of its own, with its own libraries and threads: each call is one run, in tokens a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PEERS = {"hf": "launch.bench.huggingface", "grain": "launch.bench.grain_peer"}  # by name, the module of its process


class PeerError(RuntimeError):
    """The peer can't run here: one line that says what to install or to change."""


class Peer:
    """A peer of PEERS on an experiment's data or shape. Call it for one run; close it at the end."""

    def __init__(self, peer: str, what: str, experiment: dict, case: dict):
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", PEERS[peer], what, json.dumps(experiment), json.dumps(case)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.name = self.answer()

    def __call__(self) -> float:
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return float(self.answer())

    def answer(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("error: "):
            self.process.wait()
            raise PeerError(line.removeprefix("error: ") or "the peer ended without an answer; see above")
        return line

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
