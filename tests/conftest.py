"""Before JAX is imported: eight CPU devices, so that meshes of several shapes exist, and quick compilation.

Level 0 is LLVM's: XLA's own passes run as ever. Tests compile many tiny programs, in a quarter of the time with it.
Devices meet in collectives by blocking a thread of XLA's pool each, of which there are else as many as devices; twice
XLA aborted a suite in which, as it seems, they waited for each other for 40 seconds. NPROC is the pool's size.
"""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
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

with pytest.MonkeyPatch.context() as patch:  # for this process only, not for those that tests start
    patch.setenv("NPROC", "32")
    jax.devices()  # XLA reads its flags now: those that launch.api adds for CPU would spoil other tests' TPU programs


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Programs are dropped once their module's tests are through: all together they would hold gigabytes."""
    yield
    jax.clear_caches()
