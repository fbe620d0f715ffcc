"""A peer in a process of its own, with its own libraries and threads. launch/bench/measure.py runs it beside ours."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

from launch.machine.detection import has_accelerator
from launch.machine.processor import multiplies_bfloat16

PEERS = {  # by name, the arguments of Python for each of its processes; those after the first may be missing
    "hf": [["launch.bench.huggingface"]],
    "torch": [["launch.bench.torch_peer", "eager"], ["launch.bench.torch_peer", "compiled"]],
    "grain": [["launch.bench.grain_peer"]],
    "harness": [["launch.bench.harness_peer"]],
}
MIXED = "bfloat16"  # the argument of a training peer whose products are to be bfloat16's


class PeerError(RuntimeError):
    """The peer can't run here: one line that says what to install or to change."""


class Peer:
    """One process of PEERS on an experiment's data or shape. Call it for a run's figures; close it at the end.

    It gets ready, which may take as long as our own side does, while we go on: its first answer is waited for.
    """

    def __init__(self, command: list[str], what: str, experiment: dict, case: dict):
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, what, json.dumps(experiment), json.dumps(case)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    @functools.cached_property
    def name(self) -> str:
        """With its version. Raises PeerError where the peer can't run."""
        return self.answer()

    def __call__(self) -> dict[str, float]:
        assert self.name  # its first line, before those of the runs
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return json.loads(self.answer())

    def answer(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("error: "):
            self.close()
            raise PeerError(line.removeprefix("error: ") or "the peer ended without an answer; see above")
        return line

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def start_peers(name: str, what: str, experiment: dict, case: dict) -> tuple[list[Peer], list[str]]:
    """The processes of a peer that can run here, and a line for each other one. Raises PeerError without the first.

    Where our training on a CPU rounds the operands of products, peers that do so run too: the fastest one counts.
    """
    first, *others = PEERS[name]
    rounded = experiment["execution"]["precision"] == "bfloat16" and multiplies_bfloat16() and not has_accelerator()
    if what == "train" and rounded:
        others += [[*command, MIXED] for command in PEERS[name]]
    peers, left_out = [Peer(first, what, experiment, case)], []
    for command in others:
        peer = Peer(command, what, experiment, case)
        try:
            peers += [peer] if peer.name else []
        except PeerError as error:
            left_out.append(str(error))
    return peers, list(dict.fromkeys(left_out))
