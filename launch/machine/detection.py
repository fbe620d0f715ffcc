"""What this machine is: its cores, whether it has accelerators, where its caches lie. Known without importing JAX."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path


def cache_folder() -> Path:
    """Where tokenized stores and compiled programs are kept."""
    return Path(os.environ.get("SKALD_CACHE") or "~/.cache/skald").expanduser()


def compiled_folder() -> Path:
    """Where JAX keeps compiled programs."""
    return cache_folder() / "compiled"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether JAX will find more than CPUs: what is set for them would bend its programs too."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked != "cpu" and any(map(glob.glob, ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*")))


def process_seconds() -> float:
    """How long this process has run; 0 where Linux does not say so (man 5 proc, field 22 of stat)."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
