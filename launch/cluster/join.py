"""Joins the processes of a run before JAX's backend starts, and ends all of them where one fails.

launch/machine/setup.py joins, launch/cli.py says what failed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from launch.cluster.slots import ProcessSlot

START = 300.0  # seconds until all processes must have come: images are pulled, a shared disk is cold
HEARTBEAT = 60  # seconds after which a silent process is taken for dead: JAX's 100 would idle the others for longer,
#                 and a switch that fails over takes up to half a minute
JOINED: list[ProcessSlot] = []  # once this process has joined: its seat


def join(here: ProcessSlot) -> None:
    """Waits until all processes are there. Ends this process with one line where they are not within START seconds.

    After it the process ends when another fails, and standard output holds nothing but what Python prints.
    """
    import jax  # after the flags were set

    from train import failure_link  # imports JAX

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM; train/listeners/preemption.py
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo reports its connections on standard output
    sys.stdout = os.fdopen(printed, "w")
    seconds = float(os.environ.get("SKALD_START_SECONDS", START))
    alarm = threading.Timer(seconds, give_up, [here, seconds])  # JAX itself would abort, with a stack trace
    alarm.daemon = True
    alarm.start()
    jax.distributed.initialize(
        here.coordinator,
        None if here.method is None else here.processes,
        None if here.method is None else here.process,
        None if here.device is None else [here.device],
        cluster_detection_method=here.method,
        initialization_timeout=round(seconds) + 60,
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    failure_link.connect()
    alarm.cancel()
    JOINED.append(here)
    threading.Thread(target=listen, args=[signal_socket()], daemon=True).start()


def fail(status: int, line: str) -> None:
    """Ends all processes of the run, where there are others: then it does not return (train/failure_link.py)."""
    if JOINED:
        from train import failure_link

        failure_link.fail(status, line)


def signal_socket() -> socket.socket:
    """Where the number of a signal arrives, a byte, at once: Python's own handlers wait until the main thread is back
    from what it calls, and that may be another process's tokenizing, or the compiler."""
    heard, written = socket.socketpair()
    written.setblocking(False)
    signal.signal(signal.SIGTERM, interrupted)
    signal.set_wakeup_fd(written.detach(), warn_on_full_buffer=False)
    return heard


def listen(heard: socket.socket) -> None:
    """SIGTERM before training began ends all: the others would wait for a heartbeat. Later it is Preemption's."""
    while number := heard.recv(1):
        if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is interrupted:
            fail(130, "interrupted")


def interrupted(number: int, frame) -> None:
    """Marks that no other handler was set; `listen` acts."""


def give_up(here: ProcessSlot, seconds: float) -> None:
    from train import processes

    address = processes.coordinator() or here.coordinator
    if here.process == 0:
        line = f"fewer than the {here.processes} processes of this run came to {address} within {seconds:.0f} s; "
        line += "look at the others' messages: were all started, and can they reach this address?"
    else:
        line = f"process 0 at {address} was not there within {seconds:.0f} s ({explain_connection(address)}); "
        line += "was it started, does its name lead there from here, is the port open?"
    print(f"skald (process {here.process}): {line}", file=sys.stderr, flush=True)
    os._exit(1)


def explain_connection(address: str | None) -> str:
    """What a plain connection to host:port meets."""
    if not address:
        return "its address is not known"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return "it answers, but other processes are missing"
