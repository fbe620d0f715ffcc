"""What launch/bench/gpu.sh finds on a machine: the GPU, the Python packages, the peer's packages. Prints one JSON line.

    python3 -m launch.bench.surroundings

It needs nothing but Python itself: what is missing is said, not raised.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from launch.machine.detection import has_accelerator

PEER = ("torch", "transformers")
FIELDS = ("name", "driver_version", "memory.total")  # of nvidia-smi
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def graphics_cards() -> list[dict[str, str]]:
    """NVIDIA's GPUs by the driver's own account; empty where there is no driver."""
    query = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(FIELDS, line.split(", "), strict=False)) for line in lines]


def version(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing_requirements() -> list[str]:
    """Skald's own requirements of which no version is installed."""
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    return [each.split(";")[0] for each in requirements if version(re.match(r"[\w.-]+", each)[0]) is None]


def jax_backend() -> str | None:
    """The backend that JAX takes here; None where it can't be imported."""
    if importlib.util.find_spec("jax") is None:
        return None
    if not has_accelerator():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a libtpu that is installed for plans would look for a TPU
    import jax  # here, where it is known to be installed

    return jax.default_backend()


def surroundings() -> dict:
    packages = ("jax", "jaxlib", "flax", *PEER)
    return {
        "what": "machine",
        "gpus": graphics_cards(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "backend": jax_backend(),
        "peer": all(importlib.util.find_spec(package) for package in PEER),
        "missing": missing_requirements(),
    }


if __name__ == "__main__":
    print(json.dumps(surroundings()))
