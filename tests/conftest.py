"""Before JAX is imported: eight CPU devices, so that meshes of several shapes exist, and quick compilation.

Level 0 is LLVM's: XLA's own passes run as ever. Tests compile many tiny programs, in a quarter of the time with it.
Devices meet in collectives by blocking a thread of XLA's pool each; a pool no larger than the devices can be used up,
and XLA then aborts the whole suite after 40 seconds. NPROC is the pool's size; the suite's own time-outs come later.
"""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "32")
given = os.environ.get("XLA_FLAGS", "")
FLAGS = {
    "xla_force_host_platform_device_count": 8,
    "xla_backend_optimization_level": 0,
    "xla_cpu_collective_call_terminate_timeout_seconds": 200,
}
for name, value in FLAGS.items():
    if name not in given:
        given += f" --{name}={value}"
os.environ["XLA_FLAGS"] = given.strip()

import jax  # noqa: E402

jax.devices()  # XLA reads its flags now: what launch.api adds for CPU in a test would spoil programs for TPUs in others


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Programs are dropped once their module's tests are through: all together they would hold gigabytes."""
    yield
    jax.clear_caches()
