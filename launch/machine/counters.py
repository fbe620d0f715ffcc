"""Counters of energy that this machine lets us read: NVIDIA's through NVML, Intel's and AMD's through Linux's powercap.

launch/machine/energy.py reads them. What can't be read gives no counter, and never an error: training goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
SUCCESS = 0  # of nvmlReturn_t


class EnergyCounter(Protocol):
    """`joules` since it was made, as of the last `update`. `covers`: accelerator or processor. `interval`: the seconds
    between updates that it needs; None: it needs none."""

    device: str
    covers: str
    source: str
    interval: float | None
    joules: float

    def update(self) -> None: ...


class RaplZone:
    """A zone of RAPL: microjoules in a file, that begin again at 0 (Linux, Documentation/power/powercap).

    Raises OSError where the file can't be read: it is root's alone, mostly (CVE-2020-8694).
    """

    covers, source, interval = "processor", "RAPL", 60.0  # 262 kJ, a usual range, last 4 minutes at 1 kW

    def __init__(self, folder: Path, device: str):
        self.device, self.file, self.joules = device, folder / "energy_uj", 0.0
        self.range = int((folder / "max_energy_range_uj").read_text())
        self.last = self.read()

    def read(self) -> int:
        return int(self.file.read_text())

    def update(self) -> None:
        now = self.read()
        self.joules += (now - self.last + (self.range if now < self.last else 0)) / 1e6
        self.last = now


def rapl_zones(root: Path = POWERCAP) -> list[RaplZone]:
    """The zones that add up to processors and their memory: packages, and `dram` within them, which they leave out.
    All packages or none: some of them would pass for the whole machine. Memory that can't be read is left out.

    Left out are zones within a package (core, uncore), `psys`, which holds the packages, and intel-rapl-mmio, which
    shows the same packages once more.
    """
    zones = []
    try:
        for package in sorted(root.glob("intel-rapl:[0-9]*")):
            if package.name.count(":") == 1 and (name := (package / "name").read_text().strip()).startswith("package"):
                zones += [RaplZone(package, name), *dram_zones(package, f"{name} dram")]
    except (OSError, ValueError):
        return []
    return zones


def dram_zones(package: Path, device: str) -> list[RaplZone]:
    """The memory's zones within a package that can be read."""
    zones = []
    for part in sorted(package.parent.glob(f"{package.name}:*")):
        with contextlib.suppress(OSError, ValueError):
            if (part / "name").read_text().strip() == "dram":
                zones.append(RaplZone(part, device))
    return zones


class GPUEnergy:
    """A GPU's own counter of millijoules, Volta or newer; it begins at 0 when the driver is loaded."""

    covers, source, interval = "accelerator", "NVML, total energy", None

    def __init__(self, device: str, read: Callable[[], int]):
        self.device, self.read, self.joules = device, read, 0.0
        self.last = read()

    def update(self) -> None:
        now = self.read()
        self.joules += (now - self.last if now >= self.last else now) / 1e3
        self.last = now


class GPUPower:
    """A GPU's power in milliwatts, added up by the trapezoidal rule, for GPUs without a counter of energy."""

    covers, source, interval = "accelerator", "NVML, power every second", 1.0

    def __init__(self, device: str, read: Callable[[], int], clock: Callable[[], float] = time.monotonic):
        self.device, self.read, self.clock, self.joules = device, read, clock, 0.0
        self.last = clock(), read()

    def update(self) -> None:
        now, power = self.clock(), self.read()
        self.joules += (now - self.last[0]) * (power + self.last[1]) / 2 / 1e3
        self.last = now, power


class NVMLError(OSError):
    """A call of NVML that failed, with its status."""


class NVML:
    """NVIDIA's management library (NVML API reference: device queries). `library`: libnvidia-ml, loaded by ctypes.

    Raises NVMLError.
    """

    def __init__(self, library):
        self.library = library
        self.call("nvmlInit_v2")

    def call(self, name: str, *arguments) -> None:
        status = getattr(self.library, name)(*arguments)
        if status != SUCCESS:
            raise NVMLError(f"{name} returned {status}")

    def handle(self, device: str) -> ctypes.c_void_p:
        """Of a device by its index in the order of the bus, or by its UUID."""
        handle = ctypes.c_void_p()
        if device.isdigit():
            self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(device)), ctypes.byref(handle))
        else:
            self.call("nvmlDeviceGetHandleByUUID", device.encode(), ctypes.byref(handle))
        return handle

    def number(self, name: str, handle: ctypes.c_void_p, kind=ctypes.c_uint) -> int:
        value = kind()
        self.call(name, handle, ctypes.byref(value))
        return value.value

    def text(self, name: str, handle: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(96)
        self.call(name, handle, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode()

    def counter(self, device: str) -> GPUEnergy | GPUPower:
        """The counter of energy of a device, else of its power."""
        handle = self.handle(device)
        name = f"{self.text('nvmlDeviceGetName', handle)} {self.text('nvmlDeviceGetUUID', handle)}"
        try:
            return GPUEnergy(
                name, lambda: self.number("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.c_ulonglong)
            )
        except NVMLError:
            return GPUPower(name, lambda: self.number("nvmlDeviceGetPowerUsage", handle))


def gpu_counters(indices: Sequence[int], load: Callable = ctypes.CDLL) -> list[GPUEnergy | GPUPower]:
    """Counters of the GPUs with these indices among those that CUDA_VISIBLE_DEVICES shows; all of them or none.

    CUDA's order is taken to be the bus's, as it is where all GPUs are alike.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.replace(" ", "").split(",") if visible else None
    try:
        library = NVML(load("libnvidia-ml.so.1"))
        return [library.counter(names[i] if names else str(i)) for i in indices]
    except (OSError, IndexError, AttributeError):  # no driver, another than that of CUDA's devices, an old one
        return []
