"""launch/machine/cpu/ where that folder is there: without it everything runs, more slowly on a CPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def cpu_tuning() -> ModuleType | None:
    """The package launch.machine.cpu; None where its folder was deleted."""
    there = (Path(__file__).parent / "cpu" / "__init__.py").is_file()
    return importlib.import_module("launch.machine.cpu") if there else None
