"""Sets up JAX with eight CPU devices, for meshes of several shapes, and ends what a test leaves running.

LLVM's level 0 makes the many tiny programs compile in a quarter of the time; XLA's own passes run as ever. In a
collective each device blocks a thread of XLA's pool, which by default has as many threads as devices; twice XLA aborted
a suite in which devices seemed to wait for each other for 40 seconds. NPROC is the pool's size.
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
xla_flags = os.environ.get("XLA_FLAGS", "")
FLAGS = {
    "xla_force_host_platform_device_count": 8,
    "xla_backend_optimization_level": 0,
    "xla_cpu_collective_call_terminate_timeout_seconds": 200,
}
for name, value in FLAGS.items():
    if name not in xla_flags:
        xla_flags += f" --{name}={value}"
os.environ["XLA_FLAGS"] = xla_flags.strip()

import jax  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

if "SUITE_FOLDER" in os.environ:  # three quarters of the tests' time is compilation, often of the same programs
    jax.config.update("jax_compilation_cache_dir", f"{os.environ['SUITE_FOLDER']}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
with pytest.MonkeyPatch.context() as patch:  # for this process only, not for those that tests start
    patch.setenv("NPROC", "32")
    jax.devices()  # XLA reads its flags now: those that launch.api adds for CPU would spoil other tests' TPU programs

IS_CONTROLLER = "PYTEST_XDIST_WORKER" not in os.environ  # in pytest-xdist's sense; also where there are no workers
# Files whose tests run collectives over eight devices: two such processes on two cores starve each other.
MESH_FILES = {
    "test_compositions", "test_constraint", "test_decode", "test_dpo", "test_engine", "test_in_flight", "test_kernels",
    "test_lora", "test_meshes", "test_moe", "test_precision", "test_schedule", "test_sharding", "test_step",
    "test_strategies",
}  # fmt: skip
GRACE_SECONDS = 30.0  # after its time-out, in which a test has to fail by itself
STDERR = os.dup(2)


@pytest.fixture(autouse=True, scope="module")
def clear_compiled_programs():
    """Drops compiled programs once their module's tests are through: all together they would take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def no_cache():
    """Turns the compilation cache off, for programs that JAX can't read back: those for TPUs that are not here."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # or it would stay as it was at its first use
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture
def small_panels(monkeypatch):
    """Puts weights of any size into panels where a decoder asks for them."""
    monkeypatch.setattr("model.panels.SMALLEST", 0)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder shared by all workers and phases of one run of the suite; else this process's own."""
    return Path(os.environ.get("SUITE_FOLDER") or tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora beside the checkout, or a skip."""
    folder = next((path for above in Path(__file__).parents if (path := above / "shared" / "data").is_dir()), None)
    if folder is None:
        pytest.skip("no folder shared/data above the checkout, with GPT-2's files and books")
    return folder


# --- what a test started ends with it ---------------------------------------------------------------------------------


def pytest_configure(config):
    leftovers.become_subreaper()
    if IS_CONTROLLER and "SUITE_LOG" in os.environ:
        config.pluginmanager.register(timings.Log(Path(os.environ["SUITE_LOG"])))


@pytest.fixture(autouse=True)
def no_process_left(request):
    """A test that leaves a process running fails, and the process is ended; so does one that ran out of time."""
    before = leftovers.running_descendants()
    yield
    leftovers.wait_until_ended(leftovers.started_since(before))  # what is ending already may end
    remaining = leftovers.kill_started_since(before)
    assert not remaining, f"still running: {remaining}"
    aborted = getattr(request.node, "aborted", None)
    assert aborted is None, f"ran out of time; aborted: {aborted}"


def pytest_timeout_set_timer(item, settings):
    """Aborts what the test started, which prints its stacks: mostly the test then fails by itself. Where it still
    hangs, perhaps in native code, a thread without Python's lock ends this process after GRACE_SECONDS."""
    before = leftovers.running_descendants()

    def abort() -> None:
        item.aborted = leftovers.kill_started_since(before, signal.SIGABRT)

    abort_timer = threading.Timer(settings.timeout, abort)
    abort_timer.daemon = True
    abort_timer.start()
    faulthandler.dump_traceback_later(settings.timeout + GRACE_SECONDS, exit=True, file=STDERR)
    item.cancel_abort_timer = abort_timer.cancel
    return True


def pytest_timeout_cancel_timer(item):
    getattr(item, "cancel_abort_timer", lambda: None)()  # called for tests without a time-out too
    faulthandler.cancel_dump_traceback_later()
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """Ends what a worker that died had started: this process is its parent now."""
    del crashitem, report
    pids = [node.workerinfo.get("pid") for node in sched.nodes]
    if all(pids):  # a worker that is only starting has none yet, and would be taken for a leftover
        leftovers.kill_started_since({psutil.Process(pid) for pid in pids})


# --- which tests run, and where ---------------------------------------------------------------------------------------


class FileScheduling(LoadScopeScheduling):
    """Runs a file's tests on one worker, and those of all MESH_FILES on the same one.

    Not pytest-xdist's own groups: 3.8 marks them in a name that pytest 9.2 does not read any more, and splits them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "meshes" if uses_mesh(file) else file


def uses_mesh(file: str) -> bool:
    return Path(file).stem in MESH_FILES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return FileScheduling(config, log)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: not uses_mesh(item.path))  # the longest first
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.left_out = sorted(set(slow) - set(suite.select_slow_tests(slow)), key=lambda item: item.nodeid)
    items[:] = [item for item in items if item not in config.left_out]


def pytest_report_collectionfinish(config, items):
    selected = [item for item in items if item.get_closest_marker("slow")]
    if not selected or not config.left_out:
        return []
    header = f"{len(selected)} of {len(selected) + len(config.left_out)} slow tests; SLOW_SHARE=all takes them all:"
    return [header, *(f"  {item.nodeid}" for item in selected)]
