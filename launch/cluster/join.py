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
JOINED: list[ProcessSlot] = []  # this process's place, once it has joined


def join(slot: ProcessSlot) -> None:
    """Waits until all processes of the run have come; after START seconds ends this one with one line.

    From then on this process ends when another one fails, and only what Python prints goes to standard output.
    """
    import jax  # after the flags were set

    from train import failure_link  # imports JAX

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM; train/listeners/preemption.py
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # gloo reports its connections on standard output
    sys.stdout = os.fdopen(printed, "w")
    seconds = float(os.environ.get("SKALD_START_SECONDS", START))
    alarm = threading.Timer(seconds, give_up, [slot, seconds])  # JAX itself would abort, with a stack trace
    alarm.daemon = True
    alarm.start()
    jax.distributed.initialize(
        slot.coordinator,
        None if slot.detection_method is None else slot.num_processes,
        None if slot.detection_method is None else slot.process_id,
        None if slot.local_device is None else [slot.local_device],
        cluster_detection_method=slot.detection_method,
        initialization_timeout=round(seconds) + 60,
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    failure_link.connect()
    alarm.cancel()
    JOINED.append(slot)
    threading.Thread(target=listen, args=[signal_socket()], daemon=True).start()


def fail(status: int, line: str) -> None:
    """Ends all processes of the run with this status and line. Returns only where there are no others."""
    if JOINED:
        from train import failure_link

        failure_link.fail(status, line)


def signal_socket() -> socket.socket:
    """A socket at which the number of every signal arrives at once, as one byte.

    Python's own handlers wait until the main thread is back from what it calls, and that may be the compiler, or a wait
    for another process that tokenizes.
    """
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    signal.signal(signal.SIGTERM, interrupted)
    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)
    return readable


def listen(signals: socket.socket) -> None:
    """Ends all processes at a SIGTERM before training has begun: they would wait for a heartbeat.

    During training the signal is Preemption's (train/listeners/preemption.py).
    """
    while number := signals.recv(1):
        if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is interrupted:
            fail(130, "interrupted")


def interrupted(number: int, frame) -> None:
    """Does nothing: as the handler in place it tells `listen` that training has not set its own."""


def give_up(slot: ProcessSlot, seconds: float) -> None:
    """Ends this process, saying which part of joining failed."""
    from train import processes

    address = processes.coordinator() or slot.coordinator
    if slot.process_id == 0:
        line = f"fewer than the {slot.num_processes} processes of this run came to {address} within {seconds:.0f} s; "
        line += "look at the others' messages: were all started, and can they reach this address?"
    else:
        line = f"process 0 at {address} was not there within {seconds:.0f} s ({explain_connection(address)}); "
        line += "was it started, does its name lead there from here, is the port open?"
    print(f"skald (process {slot.process_id}): {line}", file=sys.stderr, flush=True)
    os._exit(1)


def explain_connection(address: str | None) -> str:
    """What happens to a plain connection to host:port, in a few words."""
    if not address:
        return "its address is not known"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return "it answers, but other processes are missing"
