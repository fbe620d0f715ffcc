"""Ends all processes of a run when one fails or dies: every process holds a connection to process 0.

JAX's own heartbeat notices a death after a minute, and aborts with a stack trace; a collective waits for ever. The
kernel closes these connections when either end dies, however it died. launch/cluster/join.py connects
them, launch/cli.py reports failures.
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

CONNECT_TIMEOUT = 60.0  # seconds for all to connect: they were all there a moment ago
EXIT_TIMEOUT = 10.0  # seconds process 0 waits for the others to exit: JAX's service dies with it, and they would abort
REPORT_DELAY = 1.0  # seconds before a failure is reported: where a death broke a collective, it comes first
LINK: list[FailureLink] = []  # this process's, once it is connected


class FailureLink:
    """This process's end of the connections: in process 0 those to all other processes, in each of them one to it.

    A failed process sends its line to process 0, which prints it and sends the others the exit status; then all exit.
    Made in every process at the same time, after jax.distributed. Raises OSError where process 0 can't be reached.
    """

    def __init__(self):
        self.run_is_over, self.end_lock = False, threading.Lock()
        self.peers: dict[socket.socket, str] = {}
        host = (processes.coordinator() or "").rpartition(":")[0].strip("[]")
        if processes.index() == 0:
            self.accept_peers(host)
            threading.Thread(target=self.listen_to_peers, daemon=True).start()
        else:
            port, secret = json.loads(processes.broadcast_value("failure_link"))
            self.process_0 = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT)
            self.process_0.settimeout(None)
            self.process_0.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            hello = {"secret": secret, "who": f"process {processes.index()} on {socket.gethostname()}"}
            self.process_0.sendall(json.dumps(hello).encode() + b"\n")
            threading.Thread(target=self.listen_to_process_0, daemon=True).start()

    def accept_peers(self, host: str) -> None:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        secret = secrets.token_hex()  # what else may connect to an open port is sent away
        with socket.create_server(("", 0), family=family, backlog=processes.count()) as server:
            server.settimeout(CONNECT_TIMEOUT)
            processes.broadcast_value("failure_link", json.dumps([server.getsockname()[1], secret]))
            while len(self.peers) < processes.count() - 1:
                peer, _ = server.accept()
                peer.settimeout(CONNECT_TIMEOUT)
                hello = receive(peer)
                if hello.get("secret") != secret:
                    peer.close()
                    continue
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self.peers[peer] = hello["who"]

    def listen_to_peers(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self.peers:
                selector.register(peer, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    message, who = receive(key.fileobj), self.peers[key.fileobj]
                    if not message and self.run_is_over:
                        selector.unregister(key.fileobj)
                    elif not message:
                        self.end_all(1, f"{who} ended without a word (killed, or out of memory?); the same command "
                                        f"goes on from the newest checkpoint")  # fmt: skip
                    else:
                        self.end_all(message["status"], f"{message['line']} ({who})")

    def listen_to_process_0(self) -> None:
        message = receive(self.process_0)
        if not message and self.run_is_over:
            return
        if not message:
            print("skald: process 0 ended without a word; look at its messages", file=sys.stderr)
        exit_process(message.get("status", 1))

    def end_all(self, status: int, line: str) -> None:
        """In process 0: prints why, ends all processes, and does not return. Only the first failure is reported."""
        with self.end_lock:
            print(f"skald: {line}", file=sys.stderr)
            for peer in self.peers:
                send(peer, {"status": status})
            deadline = time.monotonic() + EXIT_TIMEOUT
            for peer in self.peers:
                peer.settimeout(max(0.1, deadline - time.monotonic()))
                while receive(peer):
                    pass
            exit_process(status)

    def fail(self, status: int, line: str) -> None:
        time.sleep(REPORT_DELAY)
        if processes.index() == 0:
            self.end_all(status, line)
        send(self.process_0, {"status": status, "line": line})
        time.sleep(2 * EXIT_TIMEOUT)  # the other thread ends this process when process 0 says so
        exit_process(status)


def receive(peer: socket.socket) -> dict:
    """One message; empty at the connection's end, and for bytes that are no message."""
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
    except OSError:  # it is gone: who listens to it will notice
        return


def exit_process(status: int) -> None:
    """Ends the process from any thread: the main one may wait for an array that never comes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def connect() -> None:
    LINK.append(FailureLink())


def fail(status: int, line: str) -> None:
    """Ends all processes of the run with this status and one line, and does not return. Alone, it does nothing."""
    if LINK:
        LINK[0].fail(status, line)


def disconnect() -> None:
    """At a run's regular end: waits until all processes have come this far. From then on each may exit alone."""
    if LINK:
        LINK[0].run_is_over = True
        jax.distributed.shutdown()
