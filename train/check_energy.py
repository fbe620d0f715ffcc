"""Checks what a config says of power and emissions. train/check.py calls it."""

from __future__ import annotations

from train.config import PUE, Energy, Grid
from train.fields import require

YEARS = range(1990, 2101)


def check_energy(energy: Energy) -> None:
    """Raises ConfigError for figures that no machine, house or grid can have, and for those without a source."""
    watts, idle = energy.chip_watts, energy.chip_idle_watts
    require("energy.chip_watts", watts, watts is None or watts > 0, "above 0, or null (not known)")
    valid = idle is None or (watts is not None and 0 <= idle <= watts)
    require("energy.chip_idle_watts", idle, valid, f"from 0 to energy.chip_watts={watts or 'null'}, or null")
    if energy.pue:
        require("energy.pue.value", energy.pue.value, energy.pue.value >= 1, "at least 1: the house's power, a unit's")
        check_source("energy.pue", energy.pue)
    if energy.grid:
        low, high = energy.grid.low, energy.grid.high
        require("energy.grid", f"{low:g} to {high:g}", 0 <= low <= high, "gCO2e/kWh from low to high, both at least 0")
        check_source("energy.grid", energy.grid)


def check_source(path: str, figure: PUE | Grid) -> None:
    require(f"{path}.year", figure.year, figure.year in YEARS, f"a year from {YEARS[0]} to {YEARS[-1]}")
    require(f"{path}.source", "nothing", bool(figure.source.strip()), "who published the figure, and where")
