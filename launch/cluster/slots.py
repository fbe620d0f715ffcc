"""Which process of a run this one is, found out from the environment alone. launch/cli.py asks.

In this order: SKALD_* (started by hand), Slurm, Open MPI, a TPU's workers (GKE, TPU VM).
"""

from __future__ import annotations

import importlib.util
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from train.fields import ConfigError

PORTS = 61440, 4096  # first and how many: above what Linux gives to outgoing connections (up to 60999)


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
