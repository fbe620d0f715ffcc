"""Before JAX is imported: eight CPU devices, so that meshes of several shapes exist, and quick compilation.

Level 0 is LLVM's: XLA's own passes run as ever. Tests compile many tiny programs, in a quarter of the time with it.
"""

import os
import sys

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
given = os.environ.get("XLA_FLAGS", "")
for name, value in {"xla_force_host_platform_device_count": 8, "xla_backend_optimization_level": 0}.items():
    if name not in given:
        given += f" --{name}={value}"
os.environ["XLA_FLAGS"] = given.strip()


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Programs are dropped once their module's tests are through: all together they would hold gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
