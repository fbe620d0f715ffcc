"""Which process of a run this one is, from environment variables alone. launch/cli.py calls `detect`.

Looked at in this order: SKALD_* (started by hand), Slurm, Open MPI, the workers of a TPU (GKE, TPU VM).
"""

from __future__ import annotations

import importlib.util
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.fields import ConfigError

PORTS = 61440, 4096  # the first and how many: above those of Linux's outgoing connections (up to 60999)


@dataclass(frozen=True)
class ProcessSlot:
    """A process's place among the processes of its run. The fields are arguments of jax.distributed.initialize.

    `coordinator` is the host:port on which process 0 listens; None: JAX finds it by `detection_method`. `local_device`
    is the index of the one accelerator of the host that is this process's; None: all of them.
    """

    num_processes: int
    process_id: int
    coordinator: str | None = None
    detection_method: str | None = "deactivate"
    local_device: int | None = None


def detect(environment: Mapping[str, str]) -> ProcessSlot | None:
    """The place of this process; None where it is alone. Raises ConfigError where only some of SKALD_* are set."""
    slot = slurm(environment) or open_mpi(environment) or (tpu(environment) if on_tpu(environment) else None)
    return by_hand(environment, slot)


def by_hand(environment: Mapping[str, str], detected: ProcessSlot | None) -> ProcessSlot | None:
    """The place by SKALD_COORDINATOR=host:port, SKALD_PROCESSES and SKALD_PROCESS, each before what was detected."""
    names = ("COORDINATOR", "PROCESSES", "PROCESS")
    stated = {name: environment.get(f"SKALD_{name}", "") for name in names}
    if not any(stated.values()):
        return detected
    others = ("", "", "")
    if detected:
        others = (detected.coordinator or "", str(detected.num_processes), str(detected.process_id))
    address, processes, process = (stated[name] or other for name, other in zip(names, others, strict=True))
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
    return ProcessSlot(int(processes), int(process), address, local_device=detected and detected.local_device)


def slurm(environment: Mapping[str, str]) -> ProcessSlot | None:
    """The place of a Slurm task in its step (`srun`). Where a node has several tasks, each takes one accelerator."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1 or "SLURM_PROCID" not in environment:
        return None
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    address = f"{first_host(environment['SLURM_STEP_NODELIST'])}:{PORTS[0] + (job + step) % PORTS[1]}"
    one_a_node = tasks == int(environment["SLURM_STEP_NUM_NODES"])
    device = None if one_a_node else own_device(environment, "SLURM_LOCALID")
    return ProcessSlot(tasks, int(environment["SLURM_PROCID"]), address, local_device=device)


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: `gpu[003-007,9],login1` -> gpu003."""
    prefix, bracket, rest = nodes.split(",")[0].partition("[")
    return prefix + (rest.split("-")[0].rstrip("]") if bracket else "")


def open_mpi(environment: Mapping[str, str]) -> ProcessSlot | None:
    """The place of an Open MPI rank. Version 4 says where rank 0 is; version 5 needs SKALD_COORDINATOR besides."""
    ranks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if ranks == 1:
        return None
    if "OMPI_MCA_orte_hnp_uri" not in environment and "SKALD_COORDINATOR" not in environment:
        raise ConfigError("this Open MPI does not say where rank 0 is; add -x SKALD_COORDINATOR=host:port to mpirun")
    one_a_node = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    device = None if one_a_node else own_device(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
    return ProcessSlot(ranks, int(environment["OMPI_COMM_WORLD_RANK"]), detection_method="ompi", local_device=device)


def own_device(environment: Mapping[str, str], local_rank: str) -> int | None:
    """Which accelerator of the host is this process's; None where it sees no other (--gpus-per-task).

    `local_rank` names the variable that holds the process's number on its host.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return None if visible and "," not in visible else int(environment[local_rank])


def on_tpu(environment: Mapping[str, str]) -> bool:
    """Whether JAX will compute on a TPU that is here."""
    platforms = environment.get("JAX_PLATFORMS", "")
    has_device = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return has_device and platforms in ("", "tpu", "tpu,cpu") and importlib.util.find_spec("libtpu") is not None


def tpu(environment: Mapping[str, str]) -> ProcessSlot | None:
    """The place of a TPU worker in its slice, or in several. GKE tells it by variables, a TPU VM by its metadata."""
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    worker, settings = environment.get("TPU_WORKER_ID"), {}
    if names is None:
        names, worker = metadata("worker-network-endpoints", environment), metadata("agent-worker-number", environment)
        settings = dict(line.split(":", 1) for line in metadata("tpu-env", environment).splitlines() if ":" in line)
    variables = {name.strip(): value.strip(" '") for name, value in settings.items()} | dict(environment)
    workers, slices = len(names.split(",")), int(variables.get("MEGASCALE_NUM_SLICES") or 1)
    if workers * slices == 1:
        return None
    return ProcessSlot(
        workers * slices,
        int(variables.get("MEGASCALE_SLICE_ID") or 0) * workers + int(worker or 0),
        detection_method=None,
    )


def metadata(name: str, environment: Mapping[str, str]) -> str:
    """An attribute of this virtual machine from Google's metadata server; empty without an answer in two seconds."""
    if "TPU_SKIP_MDS_QUERY" in environment:
        return ""
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return ""
