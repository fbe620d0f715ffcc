"""`skald train` as several real processes with two CPU devices each: one run, whatever happens to one of them.

They are started by hand, with SKALD_COORDINATOR and the like. Slurm and Kubernetes: tests/launch/test_cluster.py.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zygote import ForkedProcess, Zygote

pytestmark = [pytest.mark.timeout(500), pytest.mark.alone]
ROOT = Path(__file__).parents[2]
STEPS = 20
DEVICES = 2  # of each process
SHORT_RUN = ["--set", f"steps={STEPS}", "--set", "evaluation.every=10", "--set", "checkpoints.every=10"]
SHORT_RUN += ["--set", "execution.precision=default"]  # rounded products would tell the order of sums apart
NO_SAMPLES = ["--set", "evaluation.samples=0"]  # a decoder to compile less
LONG_RUN = ["--set", "steps=4000", "--set", "evaluation.every=4000", "--set", "checkpoints.every=20",
            "--set", "steps_per_dispatch=4"]  # fmt: skip


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Processes:
    """`start(n, …)`: n processes of one `skald train`; `wait` returns [(status, out, err)] in their order.

    They are forks of `zygote` unless it is None or a command goes before theirs.
    """

    def __init__(self, folder: Path, config: str, zygote: Zygote | None):
        self.folder, self.config, self.zygote = folder, folder / "heads.py", zygote
        self.config.write_text(config)

    def environment(self, process_id: int, count: int, port: int, devices: int = DEVICES) -> dict:
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        common = {"PYTHONPATH": str(ROOT), "SKALD_CACHE": str(self.folder / "cache"), "XLA_FLAGS": flags}
        own = {"SKALD_COORDINATOR": f"127.0.0.1:{port}", "SKALD_PROCESSES": count, "SKALD_PROCESS": process_id}
        return {**os.environ, "JAX_PLATFORMS": "cpu", **common, **{name: str(value) for name, value in own.items()}}

    def start(
        self, count: int, *arguments, override=lambda process_id: {}, **settings
    ) -> list[subprocess.Popen | ForkedProcess]:
        """`override(process_id)`: that process's own `cwd`, `env` (added), `args` (added), `before` (the command)."""
        port, started = free_port(), []
        for process_id in range(count):
            overrides = override(process_id)
            command_line = [str(word) for word in ["train", self.config, *arguments, *overrides.get("args", [])]]
            environment = self.environment(process_id, count, port, **settings) | overrides.get("env", {})
            folder = overrides.get("cwd", self.folder)
            if self.zygote and "before" not in overrides:
                started.append(self.zygote.start(command_line, environment, folder))
                continue
            command = [*overrides.get("before", []), sys.executable, "-m", "launch.cli", *command_line]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(command, cwd=folder, env=environment, **pipes))
        return started

    def wait(self, started: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str, str]]:
        try:
            outputs = [(*process.communicate(timeout=seconds), process) for process in started]
        finally:
            for process in started:
                process.kill()
        return [(process.returncode, out, err) for out, err, process in outputs]

    def __call__(self, count: int, *arguments, **settings) -> list[tuple[int, str, str]]:
        return self.wait(self.start(count, *arguments, **settings))


@pytest.fixture(scope="module")
def processes(skald, tmp_path_factory) -> Processes:
    """Runs the tiny config with sizes that tensor=4 divides."""
    config = Path(skald.config).read_text()
    config = config.replace("Attention(4, 2, 8", "Attention(4, 4, 8").replace("vocab_size=65", "vocab_size=68")
    return Processes(tmp_path_factory.mktemp("processes"), config, skald.zygote)


@pytest.fixture(scope="module")
def single_process_run(processes) -> Path:
    """A finished run of one process with four devices, which all others must equal."""
    (result,) = processes(1, "--run-dir", "alone", *SHORT_RUN, devices=4)
    assert result[0] == 0, result[2]
    return processes.folder / "alone"


@pytest.fixture(scope="module")
def two_process_run(processes) -> Path:
    """A finished run of two processes, parameters split over both of them."""
    results = processes(2, "--run-dir", "two", *SHORT_RUN, "--set", "mesh.data=4", "--json")
    assert [status for status, _, _ in results] == [0, 0], results
    assert json.loads(results[0][1])["reason"] == "done"
    assert results[1][1:] == ("", ""), "only process 0 speaks"
    return processes.folder / "two"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_losses(folder: Path, expected_folder: Path) -> None:
    for a, b in zip(metrics(folder), metrics(expected_folder), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"tokens_per_second", "data_wait"}:
            assert a[name] == pytest.approx(b[name], rel=1e-5), (name, a, b)


def without_speed(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "data_wait")} for line in lines]


def wait_for_line(started: list[subprocess.Popen], folder: Path, lines: int) -> None:
    file, deadline = folder / "metrics.jsonl", time.monotonic() + 200
    while not file.is_file() or len(file.read_text().splitlines()) <= lines:
        assert all(p.poll() is None for p in started) and time.monotonic() < deadline, [p.poll() for p in started]
        time.sleep(0.05)


def test_two_processes_are_one_run(single_process_run, two_process_run):
    """Losses, scores and texts of one process with as many devices; each step once."""
    assert_same_losses(single_process_run, two_process_run)
    for step in ("10", "20"):
        assert (two_process_run / "samples" / f"{step}.txt").read_text() == (
            single_process_run / "samples" / f"{step}.txt"
        ).read_text()
    assert len(list((two_process_run / "tensorboard").iterdir())) == 1
    assert sorted(p.name for p in (two_process_run / "checkpoints").iterdir()) == ["10", "20"]


def test_heads_and_features_across_two_processes(processes, single_process_run, tmp_path):
    results = processes(
        2, "--run-dir", tmp_path / "run", *SHORT_RUN, *NO_SAMPLES, "--set", "mesh.data=1", "--set", "mesh.tensor=4"
    )
    assert [status for status, _, _ in results] == [0, 0], results
    assert_same_losses(single_process_run, tmp_path / "run")


def test_two_processes_end_together_where_they_come_no_nearer_to_human_text(processes, tmp_path):
    """With a rate that changes no weight no distance is lower than the first: all end two evaluations later."""
    human = ["texts=20", "prompt_tokens=8", "new_tokens=12", "patience=2"]
    results = processes(
        2, "--run-dir", tmp_path / "run", *SHORT_RUN, *NO_SAMPLES, "--json",
        "--set", "optimizer.peak_rate=1e-30", "--set", "evaluation.every=4", "--set", "checkpoints.every=4",
        *(f"--set=evaluation.human.{setting}" for setting in human),
    )  # fmt: skip
    assert [status for status, _, _ in results] == [0, 0], results
    printed = json.loads(results[0][1])
    assert (printed["step"], printed["reason"], results[1][1:]) == (12, "human_distance", ("", ""))
    assert len({line["eval/human/distance"] for line in metrics(tmp_path / "run") if "eval/loss" in line}) == 1


def test_four_processes_over_three_axes_and_then_one_on_another_mesh(processes, single_process_run, tmp_path):
    """Rows and time across processes; one process of two devices goes on from what the four saved at step 10."""
    arguments = ["--run-dir", tmp_path / "run", *SHORT_RUN, *NO_SAMPLES]
    results = processes(4, *arguments, *(f"--set=mesh.{axis}=2" for axis in ("data", "context", "tensor")))
    assert [status for status, _, _ in results] == [0, 0, 0, 0], results
    assert_same_losses(single_process_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    (result,) = processes(1, *arguments, "--set", "mesh.data=1", "--set", "mesh.tensor=2")
    assert result[0] == 0 and "going on from step 10" in result[2], result
    assert_same_losses(single_process_run, tmp_path / "run")


def test_stopped_and_killed_they_end_as_a_run_that_never_was(processes, tmp_path):
    """Ctrl-C to one, SIGTERM to the other, kill -9 of one, a damaged checkpoint; then to the end: the same lines."""
    folder = tmp_path / "run"
    arguments = ["--run-dir", folder, *LONG_RUN, *NO_SAMPLES, "--set", "mesh.data=4"]
    for stop_signal, victim in ((signal.SIGTERM, 1), (signal.SIGINT, 0)):
        started = processes.start(2, *arguments)
        wait_for_line(started, folder, len(metrics(folder)) if folder.is_dir() else 0)
        started[victim].send_signal(stop_signal)
        results = processes.wait(started, 60)
        assert [status for status, _, _ in results] == [75, 75], results
        assert f"stopped by {stop_signal.name} at step" in results[0][2]
        newest = max(int(p.name) for p in (folder / "checkpoints").iterdir())
        assert metrics(folder)[-1]["step"] == newest, "all stopped at one step, and saved it"
    started = processes.start(2, *arguments)
    wait_for_line(started, folder, newest + 40)
    started[1].kill()
    killed = time.monotonic()
    results = processes.wait(started, 90)
    assert time.monotonic() - killed < 30 and results[0][0] == 1, results
    assert f"process 1 on {socket.gethostname()} ended without a word" in error_line(results)

    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    file = max((p for p in (folder / "checkpoints" / str(steps[-1]) / "model").rglob("*") if p.is_file()),
               key=lambda p: p.stat().st_size)  # fmt: skip
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    last = steps[-1] + 20
    last_arguments = [*arguments, "--set", f"steps={last}"]
    results = processes(2, *last_arguments)
    assert [status for status, _, _ in results] == [0, 0], results
    assert f"going on from step {steps[-2]}" in results[0][2] and f"put aside as {folder}" in results[0][2]

    results = processes(2, "--run-dir", tmp_path / "whole", *last_arguments[2:])
    assert [status for status, _, _ in results] == [0, 0], results
    assert without_speed(metrics(folder)) == without_speed(metrics(tmp_path / "whole"))


def test_a_signal_to_one_stops_all_at_the_same_batch_of_an_evaluation(processes, tmp_path):
    """Of 3,500 batches, which none could compute alone; the same command scores that step."""
    folder = tmp_path / "run"
    arguments = ["--run-dir", folder, *SHORT_RUN, *NO_SAMPLES, "--set", "mesh.data=4", "--set", "steps_per_dispatch=1"]
    arguments += ["--set", "data.validation.start=0", "--set", "data.validation.stop=0.4", "--set", "steps=10"]
    started = processes.start(2, *arguments, "--set", "evaluation.rows=4")
    wait_for_line(started, folder, 8)
    started[1].send_signal(signal.SIGTERM)
    results = processes.wait(started, 100)
    assert [status for status, _, _ in results] == [75, 75] and "stopped by SIGTERM at step 10" in results[0][2], (
        results
    )
    assert "validation loss" not in results[0][2] and "eval/loss" not in metrics(folder)[-1]
    results = processes(2, *arguments, "--set", "evaluation.rows=4096")
    assert [status for status, _, _ in results] == [0, 0], results
    assert [line["step"] for line in metrics(folder)] == list(range(1, 11))
    metadata = json.loads((folder / "checkpoints" / "10" / "about" / "metadata").read_text())
    assert metadata["scores"]["eval/loss"] == metrics(folder)[-1]["eval/loss"]


def error_line(results: list[tuple[int, str, str]]) -> str:
    """The only line that all processes together printed."""
    (line,) = [line for _, _, err in results for line in err.splitlines() if line.startswith("skald")]
    return line


def test_what_is_wrong_in_one_ends_all_with_one_line(processes, tmp_path):
    results = processes(2, "--run-dir", tmp_path / "run", override=lambda process_id: {"args": ["--seed", process_id]})
    assert [status for status, _, _ in results] == [1, 1], results
    message = "the processes of this run were not started alike (seed: 0 in process 0, 1 here)"
    assert error_line(results) == f"skald: {message} (process 1 on {socket.gethostname()})"
    assert not (tmp_path / "run").exists()

    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    results = processes(2, "--run-dir", "run", override=lambda process_id: {"cwd": folders[process_id]})
    assert [status for status, _, _ in results] == [1, 1], results
    line = error_line(results)
    assert f"{folders[1] / 'run'} on" in line and "must name one that all machines share" in line


def test_a_process_that_finds_no_other_says_so_within_the_stated_time(processes, tmp_path):
    for process_id, message in ((0, "fewer than the 2 processes of this run came"), (1, "Connection refused")):
        port, began = free_port(), time.monotonic()
        environment = processes.environment(process_id, 2, port) | {"SKALD_START_SECONDS": "5"}
        command = [sys.executable, "-m", "launch.cli", "train", str(processes.config), "--run-dir", str(tmp_path)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
        assert f"127.0.0.1:{port}" in result.stderr and message in result.stderr
        assert time.monotonic() - began < 60


JOIN_AND_WAIT = """
import sys
from launch.cluster.join import join
from launch.cluster.slots import ProcessSlot
from launch.machine import setup
setup.prepare()
join(ProcessSlot(1, 0, sys.argv[1]))
from train import processes
print("joined", file=sys.stderr, flush=True)
processes.broadcast_value("what nobody says")
"""


def test_sigterm_ends_a_process_that_waits_for_what_another_prepares():
    """In a call that Python's handlers would wait for: as long as another tokenizes."""
    command = [sys.executable, "-c", JOIN_AND_WAIT, f"127.0.0.1:{free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    waiting = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        while waiting.stderr.readline() not in ("joined\n", ""):
            pass
        waiting.terminate()
        _, err = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
    assert (waiting.returncode, err) == (130, "skald: interrupted\n")


BUILD_STORE = """
import sys, time
from pathlib import Path
from configs.shakespeare import default
from data.store.store import open_store
from data.tokenizers.tokenizer import build_tokenizer
data = default().data
tokenizer = build_tokenizer(data.tokenizer, [data.source])
time.sleep(max(0, float(sys.argv[2]) - time.time()))
print(open_store(data.source, tokenizer, Path(sys.argv[1])).manifest["tokens"])
"""


def test_many_processes_tokenize_into_one_cache_at_once(tmp_path):
    """All at the same moment: one store is left, whole, and nothing unfinished."""
    command = [sys.executable, "-c", BUILD_STORE, str(tmp_path), str(time.time() + 4)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = {process.communicate(timeout=100)[0] for process in started}
    assert len(counts) == 1 and int(counts.pop()) > 900_000
    assert [process.returncode for process in started] == [0, 0, 0, 0]
    (store,) = (path for path in (tmp_path / "stores").iterdir() if path.is_dir())
    assert (store / "manifest.json").is_file()


HOSTS = {"skaldA": "10.77.5.1", "skaldB": "10.77.5.2"}  # network namespaces, and their addresses


@pytest.fixture
def hosts():
    """Two network namespaces joined by one cable, in each of which this machine's name leads to the own address."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip (package iproute2)")
    try:
        for index, (name, address) in enumerate(HOSTS.items()):
            result = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if result.returncode:
                pytest.skip(f"no network namespace here: {result.stderr.strip()}")
            hosts_file = Path("/etc/netns") / name / "hosts"  # `ip netns exec` lays it over /etc/hosts
            hosts_file.parent.mkdir(parents=True, exist_ok=True)
            hosts_file.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
            if not index:
                continue
            ends = ["skald0", "netns", "skaldA", "type", "veth", "peer", "name", "skald1", "netns", "skaldB"]
            subprocess.run(["ip", "link", "add", *ends], check=True)
        for index, (name, address) in enumerate(HOSTS.items()):
            for arguments in (["addr", "add", f"{address}/24", "dev", f"skald{index}"],
                              ["link", "set", "lo", "up"], ["link", "set", f"skald{index}", "up"]):  # fmt: skip
                subprocess.run(["ip", "-n", name, *arguments], check=True)
        yield list(HOSTS.items())
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def test_two_hosts_with_a_cache_each(processes, single_process_run, hosts, tmp_path):
    """Over the cable alone, no cache shared, one run folder: the same losses."""

    def override(process_id: int) -> dict:
        address = f"{hosts[0][1]}:7801"
        own = {"SKALD_COORDINATOR": address, "SKALD_CACHE": str(tmp_path / f"cache{process_id}")}
        return {"before": ["ip", "netns", "exec", hosts[process_id][0]], "env": own}

    results = processes(
        2, "--run-dir", tmp_path / "run", *SHORT_RUN, *NO_SAMPLES, "--set", "mesh.data=4", override=override
    )
    assert [status for status, _, _ in results] == [0, 0], results
    assert_same_losses(single_process_run, tmp_path / "run")
    assert (tmp_path / "cache0" / "stores").is_dir() and (tmp_path / "cache1" / "stores").is_dir()
