"""Energy of computing, and how it is known: measured, modelled, or unmeasured. Counters are launch/machine's."""

from __future__ import annotations

from typing import NamedTuple

from train.config import Energy

KWH = 3.6e6  # joules


class EnergyUse(NamedTuple):
    """`joules` is None where `method` is "unmeasured": no counter, no stated wattage. Never 0 for not known.

    `by_device`: of each device {"device", "joules", "method", "source"}.
    """

    joules: float | None
    method: str
    about: str
    by_device: list[dict]


class Chips(NamedTuple):
    """`count` chips of a `platform` (cpu, gpu, tpu), of `rated_watts` each by their maker; None: not published."""

    platform: str
    count: int
    rated_watts: float | None = None


def merge_readings(readings: list[dict]) -> dict:
    """One reading of those of all processes: what two of one machine have both read counts once."""
    devices: dict[tuple, dict] = {}
    for device in (device for reading in readings for device in reading["by_device"]):
        key = device["host"], device["device"]
        devices[key] = max(device, devices.get(key, device), key=lambda d: d["joules"])
    return {"by_device": list(devices.values()), "complete": all(reading["complete"] for reading in readings)}


def energy_use(reading: dict, chips: Chips, settings: Energy, seconds: float, busy: float) -> EnergyUse:
    """The energy of `seconds`, of which the chips worked `busy`.

    `reading`: `by_device`, {"device", "joules", "source"} of each counter, and `complete`: whether the counters are of
    all chips. Where they are not, each chip is taken to have drawn the wattage that the config states, or its maker.
    """
    measured = [device | {"method": "measured"} for device in reading["by_device"]]
    if reading["complete"]:
        about = "by the devices' own counters, with what else ran on them; what they do not cover is not in it"
        return EnergyUse(sum(device["joules"] for device in measured), "measured", about, measured)
    watts = settings.chip_watts or chips.rated_watts
    if watts is None:
        counters = "counters of energy do not tell of all chips to the end" if measured else "no counter could be read"
        about = f"{counters}, and the config states no energy.chip_watts"
        return EnergyUse(None, "unmeasured", about, measured)
    idle = settings.chip_idle_watts if settings.chip_watts else None
    source = "energy.chip_watts of the config" if settings.chip_watts else "the maker's rated power"
    modelled = {
        "device": f"{chips.count} x {chips.platform}",
        "joules": chips.count * (watts * busy + (watts if idle is None else idle) * (seconds - busy)),
        "method": "modelled",
        "source": source,
    }
    waiting = f"and {idle:g} W while waiting" if idle is not None else "all the time: an upper bound"
    others = [] if chips.platform == "cpu" else [d for d in measured if d["covers"] == "processor"]
    joules = modelled["joules"] + sum(device["joules"] for device in others)
    return EnergyUse(joules, "modelled", f"{watts:g} W a chip ({source}), {waiting}", [modelled, *others])


def total(uses: list[EnergyUse]) -> EnergyUse:
    """The energy of several attempts: known only where that of each is. `by_device` has a device once for each way in
    which its energy is known."""
    by_device = add_devices([device for use in uses for device in use.by_device])
    about = "; ".join(dict.fromkeys(use.about for use in uses))
    methods = {use.method for use in uses}
    if "unmeasured" in methods or not uses:
        return EnergyUse(None, "unmeasured", about, by_device)
    method = "modelled" if "modelled" in methods else "measured"
    return EnergyUse(sum(use.joules for use in uses), method, about, by_device)


def add_devices(devices: list[dict]) -> list[dict]:
    """Each device of a host, by method and source, once, with the joules of all its entries."""
    added: dict[tuple, dict] = {}
    for device in devices:
        key = tuple(device.get(name) for name in ("host", "device", "method", "source"))
        joules = added[key]["joules"] if key in added else 0.0
        added[key] = device | {"joules": joules + device["joules"]}
    return list(added.values())


def emissions(joules: float | None, settings: Energy) -> list[float] | None:
    """gCO2e from low to high; None unless energy, PUE and the grid's intensity are all known."""
    if joules is None or settings.pue is None or settings.grid is None:
        return None
    kwh = joules / KWH * settings.pue.value
    return [kwh * settings.grid.low, kwh * settings.grid.high]


def per_token(use: EnergyUse, tokens: int) -> dict:
    """Energy of generated tokens as JSON: `joules`, `method`, `about`, `by_device`, `tokens`, `joules_per_token`."""
    joules = None if use.joules is None or not tokens else use.joules / tokens
    return {**use._asdict(), "tokens": tokens, "joules_per_token": joules}
