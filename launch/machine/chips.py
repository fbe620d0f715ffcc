"""A table of accelerators: peak, memory and links of one device of each kind, as JAX counts devices.

Plans and the utilization that training prints are computed from it.

Sources: vendors' data sheets; "How to Scale Your Model" (Austin et al. 2025, chapter 2) for links and networks; for
memory, what the compiler's own refusals name as usable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class TPU:
    """One device of a generation of TPU."""

    kind: str  # JAX's device_kind
    peak: float  # FLOP/s, dense bfloat16
    memory: float  # bytes that a program may use
    bandwidth: float  # of that memory, bytes/s
    clock: float  # of the cycles that the compiler counts, Hz
    link: float  # one way over one link of the torus, bytes/s
    ring: int  # a torus axis of this many chips, or of a multiple, closes to a ring
    network: float  # a device's share of its host's network to other slices, bytes/s


TPUS = {
    "v4": TPU("TPU v4", 275e12, 30.75 * GIB, 1228e9, 1.05e9, 45e9, 4, 6.25e9),
    "v5e": TPU("TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 1.5e9, 45e9, 16, 3.125e9),
    "v5p": TPU("TPU v5", 459e12, 95.73 * GIB, 2765e9, 1.75e9, 90e9, 4, 6.25e9),
    "v6e": TPU("TPU v6 lite", 918e12, 31.24 * GIB, 1640e9, 1.75e9, 90e9, 16, 12.5e9),
    "tpu7x": TPU("TPU7x", 1153e12, 94.74 * GIB, 3690e9, 2.2e9, 90e9, 4, 6.25e9),
}
PEAK = {tpu.kind: tpu.peak for tpu in TPUS.values()} | {  # dense bfloat16 FLOP/s of a device, by JAX's device_kind
    "TPU v5p": 459e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# Watts of one chip, for a run's energy where no counter can be read: of GPUs the maximum in NVIDIA's data sheets, of
# TPU v4 the maximum that Google measured (Cloud TPU's documentation, "TPU v4"). Of later TPUs it published none.
RATED_WATTS = {
    "NVIDIA A100-SXM4-40GB": 400.0,
    "NVIDIA A100-SXM4-80GB": 400.0,
    "NVIDIA H100 80GB HBM3": 700.0,
    "NVIDIA H200": 700.0,
    "TPU v4": 192.0,
}


def count_chips(devices) -> int:
    """How many chips devices belong to: a TPU7x has two, and all CPU devices of a process are cores of one."""

    def chip(device) -> tuple:
        if device.platform == "cpu":
            return (device.process_index,)
        return (getattr(device, "slice_index", 0), *getattr(device, "coords", (device.id,)))

    return len(set(map(chip, devices)))


def generation(kind: str) -> str | None:
    """The TPU generation (a key of TPUS) of a device_kind; None for anything else."""
    return next((name for name, tpu in TPUS.items() if tpu.kind == kind.removesuffix("p")), None)


def memory(device) -> float:
    """Bytes that a program may use on a device, which may be of another machine. On CPU: its share of the memory."""
    tpu = TPUS.get(generation(device.device_kind) or "")
    if tpu:
        return tpu.memory
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return float(limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / device.client.device_count())
