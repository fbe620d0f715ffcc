"""Whether this process is one of several of a run, and joining them, before JAX's backend starts. launch/cli.py asks.

Found out from the environment alone, in this order: SKALD_* (started by hand), Slurm, Open MPI, a TPU's workers.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.fields import ConfigError

START = 300.0  # seconds until all processes must have come: images are pulled, a shared disk is cold
HEARTBEAT = 60  # seconds after which a silent process is taken for dead: JAX's 100 would idle the others for longer,
#                 and a switch that fails over takes up to half a minute
PORTS = 61440, 4096  # first and how many: above what Linux gives to outgoing connections (up to 60999)
JOINED: list[ProcessSlot] = []  # once this process has joined: its seat


@dataclass(frozen=True)
class ProcessSlot:
    """A process's place among those of its run.

    `coordinator` is the host:port on which process 0 listens, or None where JAX finds it by `method`. `device` is the
    index of the one accelerator of the host that is this process's; None: all of them.
    """

    processes: int
    process: int
    coordinator: str | None = None
    method: str | None = "deactivate"
    device: int | None = None


def detect(environment: Mapping[str, str]) -> ProcessSlot | None:
    """None for a process alone. Raises ConfigError where SKALD_* says half of it."""
    found = slurm(environment) or open_mpi(environment) or (tpu(environment) if on_tpu(environment) else None)
    return by_hand(environment, found)


def by_hand(environment: Mapping[str, str], found: ProcessSlot | None) -> ProcessSlot | None:
    """SKALD_COORDINATOR=host:port, SKALD_PROCESSES, SKALD_PROCESS; each stands before what was found."""
    names = ("COORDINATOR", "PROCESSES", "PROCESS")
    named = {name: environment.get(f"SKALD_{name}", "") for name in names}
    if not any(named.values()):
        return found
    known = (found.coordinator or "", str(found.processes), str(found.process)) if found else ("", "", "")
    address, processes, process = (named[name] or other for name, other in zip(names, known, strict=True))
    for name, value in zip(names, (address, processes, process), strict=True):
        if not value:
            raise ConfigError(f"SKALD_{name} is not set; one of several processes needs SKALD_{', SKALD_'.join(names)}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"SKALD_COORDINATOR={address}: write host:port of process 0, as node1:12345")
    if not (processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        raise ConfigError(f"SKALD_PROCESS={process} of SKALD_PROCESSES={processes}: numbers go from 0 to below that")
    if processes == "1":
        return None
    return ProcessSlot(int(processes), int(process), address, device=found and found.device)


def slurm(environment: Mapping[str, str]) -> ProcessSlot | None:
    """A task of a step (`srun`) of several. With several a node each takes one accelerator, else all of its node."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1 or "SLURM_PROCID" not in environment:
        return None
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    address = f"{first_host(environment['SLURM_STEP_NODELIST'])}:{PORTS[0] + (job + step) % PORTS[1]}"
    one_a_node = tasks == int(environment["SLURM_STEP_NUM_NODES"])
    device = None if one_a_node else own_device(environment, "SLURM_LOCALID")
    return ProcessSlot(tasks, int(environment["SLURM_PROCID"]), address, device=device)


def first_host(nodes: str) -> str:
    """`gpu[003-007,9],login1` -> gpu003."""
    prefix, bracket, rest = nodes.split(",")[0].partition("[")
    return prefix + (rest.split("-")[0].rstrip("]") if bracket else "")


def open_mpi(environment: Mapping[str, str]) -> ProcessSlot | None:
    """A rank of several. Open MPI 4 says where rank 0 is; under 5 it takes SKALD_COORDINATOR as well."""
    ranks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if ranks == 1:
        return None
    if "OMPI_MCA_orte_hnp_uri" not in environment and "SKALD_COORDINATOR" not in environment:
        raise ConfigError("this Open MPI does not say where rank 0 is; add -x SKALD_COORDINATOR=host:port to mpirun")
    one_a_node = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    device = None if one_a_node else own_device(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
    return ProcessSlot(ranks, int(environment["OMPI_COMM_WORLD_RANK"]), method="ompi", device=device)


def own_device(environment: Mapping[str, str], local: str) -> int | None:
    """This process's accelerator among those of its host; None where it is shown no other (--gpus-per-task)."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    return None if shown and "," not in shown else int(environment[local])


def on_tpu(environment: Mapping[str, str]) -> bool:
    wanted = environment.get("JAX_PLATFORMS", "")
    there = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return there and wanted in ("", "tpu", "tpu,cpu") and importlib.util.find_spec("libtpu") is not None


def tpu(environment: Mapping[str, str]) -> ProcessSlot | None:
    """A worker of a slice, or of several slices. GKE says it in variables, a TPU VM in its metadata; JAX knows both."""
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    worker, settings = environment.get("TPU_WORKER_ID"), {}
    if names is None:
        names, worker = metadata("worker-network-endpoints", environment), metadata("agent-worker-number", environment)
        settings = dict(line.split(":", 1) for line in metadata("tpu-env", environment).splitlines() if ":" in line)
    said = {name.strip(): value.strip(" '") for name, value in settings.items()} | dict(environment)
    workers, slices = len(names.split(",")), int(said.get("MEGASCALE_NUM_SLICES") or 1)
    if workers * slices == 1:
        return None
    return ProcessSlot(
        workers * slices, int(said.get("MEGASCALE_SLICE_ID") or 0) * workers + int(worker or 0), method=None
    )


def metadata(name: str, environment: Mapping[str, str]) -> str:
    """An attribute of this virtual machine; empty where nothing answers within two seconds."""
    if "TPU_SKIP_MDS_QUERY" in environment:
        return ""
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    asked = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return ""


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
