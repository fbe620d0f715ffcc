"""The devices of a TPU topology by name (v5p:4x4x4), from the compiler in the `libtpu` wheel: no TPU is needed.

launch/machine/setup.py sets what it needs before JAX is imported; launch/plan/compiled.py compiles for the devices.
"""

from __future__ import annotations

import importlib.util
import math
import re

import jax
from jax.experimental import topologies

from launch.machine.chips import TPUS
from train.fields import ConfigError

AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
EXAMPLES = {"v4": "2x2x1 to 12x16x16", "v5e": "1x1 to 16x16", "v5p": "2x2x1 to 16x16x24", "v6e": "1x1 to 16x16"}
EXAMPLES["tpu7x"] = "2x2x1 to 16x16x36"


class TopologyError(ConfigError):
    """A topology that does not exist, or a missing compiler: one line. Exit status 2."""


def devices(name: str, slices: int = 1) -> list:
    """The devices of `slices` slices of a topology, slice after slice.

    Raises TopologyError listing what there is, or how to install the compiler.
    """
    generation, chips = parse_topology(name)
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(
            "--topology needs TPU's compiler, which is not installed; `bash launch/local.sh plan …` installs it, or, "
            "in an environment of your own: uv pip install -c requirements.lock -e '.[plan]'"
        )
    options = {"num_slices": slices} if slices > 1 else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as JAX shows them on a v4
    if math.prod(chips) < 4:
        options["chips_per_host_bounds"] = (*chips, 1, 1)[:3]
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise TopologyError(
            f"--topology {name}: the compiler refuses it ({first_line(error)}); {list_topologies()}"
        ) from None


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """The generation of a topology's name, and its chips along each axis. Raises TopologyError."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in TPUS or match[2].count("x") + 1 != AXES[match[1]]:
        raise TopologyError(f"--topology {name}: no such topology; {list_topologies()}")
    return match[1], tuple(map(int, match[2].split("x")))


def list_topologies() -> str:
    return "there is " + ", ".join(f"{name}:{sizes}" for name, sizes in EXAMPLES.items())


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
