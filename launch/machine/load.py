"""How busy a machine is with the work of others, as Linux counts processor time.

The benches of launch/bench measure it beside their runs: a speed that was shared is none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BUSY = 0.2  # cores of others from which a machine is busy: work on all cores waits for the slowest


class Load(NamedTuple):
    """Means over a time, in cores: `others` used by other processes, `stolen` by the host of a virtual machine."""

    cores: int
    others: float
    stolen: float

    @property
    def busy(self) -> bool:
        return self.others + self.stolen > BUSY

    def __str__(self) -> str:
        stolen = f", its host took {self.stolen:.1f}" if self.stolen >= 0.05 else ""
        return f"others used {self.others:.1f} of {self.cores} core{'s' * (self.cores > 1)}{stolen}"


class ProcessorTime(NamedTuple):
    """Seconds since the system's start, summed over cores: `wall`, all used, used by processes of ours, stolen."""

    wall: float
    used: float
    own: float
    stolen: float


class LoadMeter:
    """Measures the load by all processes but `pids` (their threads, and children they waited for, are theirs)."""

    def __init__(self, pids: Sequence[int], proc: Path = Path("/proc")):
        self.pids, self.proc = pids, proc
        self.start = self.read()

    def load(self) -> Load | None:
        """The load since the meter was made; None where the system does not count it so."""
        if self.start is None:
            return None
        wall, used, own, stolen = (b - a for a, b in zip(self.start, self.read(), strict=True))
        cores = len(os.sched_getaffinity(0))
        seconds = max(wall, 1e-9) / cores
        return Load(cores, max(0.0, used - own) / seconds, stolen / seconds)

    def read(self) -> ProcessorTime | None:
        """Times of the cores that this process may use."""
        try:
            lines = [line.split() for line in (self.proc / "stat").read_text().splitlines()]
        except OSError:
            return None
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = [list(map(int, fields[1:9])) for fields in lines if fields[0] in names]
        second = os.sysconf("SC_CLK_TCK")
        # user (guests included), nice, system, idle, waiting for disks, interrupts of two kinds, stolen (man 5 proc)
        used, stolen = sum(sum(times[:3]) for times in ticks), sum(times[7] for times in ticks)
        wall = sum(map(sum, ticks))
        return ProcessorTime(
            wall / second, used / second, sum(map(self.process_ticks, self.pids)) / second, stolen / second
        )

    def process_ticks(self, pid: int) -> int:
        """Of a process and the children it has waited for, in user and kernel mode."""
        fields = (self.proc / str(pid) / "stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
        return sum(map(int, fields[11:15]))
