"""A connection from every process of a run to process 0: one that fails, or dies, ends all of them at once.

JAX's own heartbeat notices a death after a minute, and aborts with a stack trace; a collective waits for ever. These
connections are closed by the kernel when either end dies, however it died. launch/cluster/join.py
connects them, launch/cli.py says what failed.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time

import jax

from train import processes

HELLO = 60.0  # seconds for all to connect: they were all there a moment ago
FAREWELL = 10.0  # seconds process 0 waits for the others to end: JAX's service dies with it, and they would abort
CAUSE = 1.0  # seconds before a failure is told: where a collective broke because a process died, that is the news
CONNECTED: list[FailureLink] = []


class FailureLink:
    """Made in every process at the same time, after jax.distributed. Raises OSError where process 0 is not reached.

    Process 0 hears of a failure first, says the one line, and tells the others the exit status.
    """

    def __init__(self):
        self.ending, self.speaking = False, threading.Lock()
        self.peers: dict[socket.socket, str] = {}
        host = (processes.coordinator() or "").rpartition(":")[0].strip("[]")
        if processes.index() == 0:
            self.accept(host)
            threading.Thread(target=self.listen_to_all, daemon=True).start()
        else:
            port, secret = json.loads(processes.broadcast_value("failure_link"))
            self.first = socket.create_connection((host, port), timeout=HELLO)
            self.first.settimeout(None)
            self.first.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            said = {"secret": secret, "who": f"process {processes.index()} on {socket.gethostname()}"}
            self.first.sendall(json.dumps(said).encode() + b"\n")
            threading.Thread(target=self.listen_to_first, daemon=True).start()

    def accept(self, host: str) -> None:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        secret = secrets.token_hex()  # what else may connect to an open port is sent away
        with socket.create_server(("", 0), family=family, backlog=processes.count()) as server:
            server.settimeout(HELLO)
            processes.broadcast_value("failure_link", json.dumps([server.getsockname()[1], secret]))
            while len(self.peers) < processes.count() - 1:
                peer, _ = server.accept()
                peer.settimeout(HELLO)
                said = receive(peer)
                if said.get("secret") != secret:
                    peer.close()
                    continue
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self.peers[peer] = said["who"]

    def listen_to_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                selector.register(peer, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    said, who = receive(key.fileobj), self.peers[key.fileobj]
                    if not said and self.ending:
                        selector.unregister(key.fileobj)
                    elif not said:
                        self.end_all(1, f"{who} ended without a word (killed, or out of memory?); the same command "
                                        f"goes on from the newest checkpoint")  # fmt: skip
                    else:
                        self.end_all(said["status"], f"{said['line']} ({who})")

    def listen_to_first(self) -> None:
        said = receive(self.first)
        if not said and self.ending:
            return
        if not said:
            print("skald: process 0 ended without a word; look at its messages", file=sys.stderr)
        exit_process(said.get("status", 1))

    def end_all(self, status: int, line: str) -> None:
        """In process 0: says why, and returns no more. Who comes second is not heard."""
        with self.speaking:
            print(f"skald: {line}", file=sys.stderr)
            for peer in self.peers:
                send(peer, {"status": status})
            until = time.monotonic() + FAREWELL
            for peer in self.peers:
                peer.settimeout(max(0.1, until - time.monotonic()))
                while receive(peer):
                    pass
            exit_process(status)

    def fail(self, status: int, line: str) -> None:
        time.sleep(CAUSE)
        if processes.index() == 0:
            self.end_all(status, line)
        send(self.first, {"status": status, "line": line})
        time.sleep(2 * FAREWELL)  # the other thread ends this process when process 0 says so
        exit_process(status)


def receive(peer: socket.socket) -> dict:
    """One message; empty at the connection's end, and for what is none."""
    text = b""
    try:
        while not text.endswith(b"\n") and (more := peer.recv(4096)):
            text += more
        return dict(json.loads(text))
    except (OSError, ValueError, TypeError):
        return {}


def send(peer: socket.socket, message: dict) -> None:
    try:
        peer.sendall(json.dumps(message).encode() + b"\n")
    except OSError:  # it is gone: that is heard elsewhere
        return


def exit_process(status: int) -> None:
    """Ends the process from any thread: the main one may wait for an array that never comes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def connect() -> None:
    CONNECTED.append(FailureLink())


def fail(status: int, line: str) -> None:
    """Ends all processes of the run with this status and one line, and does not return. Nothing for a process alone."""
    if CONNECTED:
        CONNECTED[0].fail(status, line)


def disconnect() -> None:
    """At a run's own end: waits until all processes have come so far; from then on each may go."""
    if CONNECTED:
        CONNECTED[0].ending = True
        jax.distributed.shutdown()
