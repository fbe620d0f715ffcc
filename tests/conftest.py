"""Before JAX is imported: eight CPU devices, so that meshes of several shapes exist, and quick compilation.

Level 0 is LLVM's: XLA's own passes run as ever. Tests compile many tiny programs, in a quarter of the time with it.
Devices meet in collectives by blocking a thread of XLA's pool each, of which there are else as many as devices; twice
XLA aborted a suite in which, as it seems, they waited for each other for 40 seconds. NPROC is the pool's size.
"""

import faulthandler
import os
import signal
import threading
from pathlib import Path

import leftovers
import psutil
import pytest
import suite
import timings
from xdist.scheduler import LoadScopeScheduling

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
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

if "SUITE_FOLDER" in os.environ:  # three quarters of the tests' time is compilation, and much is compiled often
    jax.config.update("jax_compilation_cache_dir", f"{os.environ['SUITE_FOLDER']}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
with pytest.MonkeyPatch.context() as patch:  # for this process only, not for those that tests start
    patch.setenv("NPROC", "32")
    jax.devices()  # XLA reads its flags now: those that launch.api adds for CPU would spoil other tests' TPU programs

FIRST = "PYTEST_XDIST_WORKER" not in os.environ  # of pytest's processes; the only one where there are no workers
# Files whose tests run programs on eight devices that meet: two such processes on two cores starve each other.
MEET = {
    "test_decode", "test_in_flight", "test_kernels", "test_meshes", "test_moe", "test_precision", "test_schedule",
    "test_sharding", "test_step",
}  # fmt: skip
HARD = 30.0  # seconds after a test's time-out that it has to fail by itself
STDERR = os.dup(2)


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Programs are dropped once their module's tests are through: all together they would hold gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def no_cache():
    """For programs that JAX can't read back: those for TPUs that are not here."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # or what it found out at its first use would stand
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers and phases of one run of the suite have; else this process's own."""
    return Path(os.environ.get("SUITE_FOLDER") or tmp_path_factory.mktemp("shared"))


# --- what a test started ends with it ---------------------------------------------------------------------------------


def pytest_configure(config):
    leftovers.adopt()
    if FIRST and "SUITE_LOG" in os.environ:
        config.pluginmanager.register(timings.Log(Path(os.environ["SUITE_LOG"])))


@pytest.fixture(autouse=True)
def nothing_stays(request):
    """A test that leaves a process running fails, and the process is ended; so does one that ran out of time."""
    before = leftovers.running()
    yield
    leftovers.ended(leftovers.since(before))  # what is ending already may
    left = leftovers.end(before)
    assert not left, f"still running: {left}"
    aborted = getattr(request.node, "aborted", None)
    assert aborted is None, f"ran out of time; aborted: {aborted}"


def pytest_timeout_set_timer(item, settings):
    """First what the test started is aborted, with its stacks in what it prints: mostly the test then fails by itself.
    Where it hangs on, in native code it may be, a thread without Python's lock ends this process."""
    before = leftovers.running()

    def abort() -> None:
        item.aborted = leftovers.end(before, signal.SIGABRT)

    gentle = threading.Timer(settings.timeout, abort)
    gentle.daemon = True
    gentle.start()
    faulthandler.dump_traceback_later(settings.timeout + HARD, exit=True, file=STDERR)
    item.cancel_gently = gentle.cancel
    return True


def pytest_timeout_cancel_timer(item):
    getattr(item, "cancel_gently", lambda: None)()  # asked for tests without a time-out too
    faulthandler.cancel_dump_traceback_later()
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """A worker died: what it had started has this process as its parent now."""
    del crashitem, report
    leftovers.end({psutil.Process(node.workerinfo["pid"]) for node in sched.nodes})


# --- which tests run, and where ---------------------------------------------------------------------------------------


class ByFile(LoadScopeScheduling):
    """A file's tests run on one worker, and on one those of all files whose devices meet in collectives.

    Not pytest-xdist's own groups: 3.8 marks them in a name that pytest 9.2 does not read any more, and splits them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "meshes" if meets(file) else file


def meets(file: str) -> bool:
    return Path(file).stem in MEET


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: not meets(item.path))  # the longest first
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.left_out = sorted(set(slow) - set(suite.chosen(slow)), key=lambda item: item.nodeid)
    items[:] = [item for item in items if item not in config.left_out]


def pytest_report_collectionfinish(config, items):
    chosen = [item for item in items if item.get_closest_marker("slow")]
    if not chosen or not config.left_out:
        return []
    said = f"{len(chosen)} of {len(chosen) + len(config.left_out)} slow tests; SLOW_SHARE=all takes them all:"
    return [said, *(f"  {item.nodeid}" for item in chosen)]
