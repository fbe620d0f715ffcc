"""Measures the joules that devices take. Training (RUN/card.json) and generation use one EnergyMeter."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from launch.machine import chips, counters
from launch.machine.counters import EnergyCounter
from train.config import Energy
from train.energy import Chips, EnergyUse, energy_use


class EnergyMeter:
    """Counts the joules of some devices of this process (JAX's), and of the machine's processors, from when it is made
    until `close`; or as a context: `with EnergyMeter(jax.local_devices(), settings) as meter: …; meter.use()`.

    `settings`: the config's wattage, for devices whose counters can't be read. A thread reads those that need it.
    """

    def __init__(self, devices: Sequence, settings: Energy | None = None, found: Sequence[EnergyCounter] | None = None):
        device = devices[0]
        self.settings = settings or Energy()
        self.chips = Chips(device.platform, chips.count_chips(devices), chips.RATED_WATTS.get(device.device_kind))
        self.counters = list(find_counters(devices) if found is None else found)
        self.needed = self.needed_counters()
        self.started, self.lock, self.stop = time.perf_counter(), threading.Lock(), threading.Event()
        self.seconds: float | None = None  # once closed
        intervals = [counter.interval for counter in self.counters if counter.interval]
        if intervals:
            threading.Thread(target=self.update_every, args=[min(intervals)], name="energy", daemon=True).start()

    def needed_counters(self) -> tuple[str, int]:
        """What covers all chips: so many counters of that kind."""
        if self.chips.platform == "cpu":
            return "processor", max(1, sum(counter.covers == "processor" for counter in self.counters))
        return "accelerator", self.chips.count

    def update_every(self, interval: float) -> None:
        while not self.stop.wait(interval):
            self.update()

    def update(self) -> None:
        """Reads all counters; one that can't be read any more is left out from then on, with what it had counted."""
        with self.lock:
            for counter in list(self.counters):
                try:
                    counter.update()
                except (OSError, ValueError):
                    self.counters.remove(counter)

    def reading(self) -> dict:
        """What the counters say, as JSON: `by_device`, a list of {"device", "host", "covers", "joules", "source"}, and
        `complete`: whether they are of all chips."""
        if not self.stop.is_set():
            self.update()
        host = socket.gethostname()
        by_device = [
            {"device": c.device, "host": host, "covers": c.covers, "joules": c.joules, "source": c.source}
            for c in self.counters
        ]
        return {
            "by_device": by_device,
            "complete": sum(d["covers"] == self.needed[0] for d in by_device) >= self.needed[1],
        }

    def use(self) -> EnergyUse:
        """The energy since the meter was made, or until it was closed: the chips worked all the time."""
        seconds = time.perf_counter() - self.started if self.seconds is None else self.seconds
        return energy_use(self.reading(), self.chips, self.settings, seconds, busy=seconds)

    def close(self) -> None:
        if self.seconds is None:
            self.seconds = time.perf_counter() - self.started
            self.update()
            self.stop.set()

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def find_counters(devices: Sequence) -> list[EnergyCounter]:
    """The counters of these devices, where they can be read, and of the machine's processors."""
    found: list[EnergyCounter] = list(counters.rapl_zones())
    if devices[0].platform == "gpu":
        found += counters.gpu_counters([device.local_hardware_id for device in devices])
    return found
