"""Tests of the suite itself: what hangs is ended and shows its stacks; the share of slow tests; the seconds of each."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import suite
import timings

TESTS = Path(__file__).parent
HANGING_TESTS = """
import subprocess, sys
import pytest

@pytest.mark.timeout(1)
def test_waits_for_one_that_hangs():
    program = "def stuck_here():\\n    while True: pass\\nstuck_here()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_leaves_one_behind():
    subprocess.Popen(["sleep", "SECONDS"])
"""


@pytest.mark.timeout(120)
def test_what_a_test_starts_ends_with_it_and_says_where_it_was(tmp_path):
    seconds = str(10**7 + os.getpid())  # that no other run's sleep has
    (tmp_path / "test_hangs.py").write_text(HANGING_TESTS.replace("SECONDS", seconds))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}",
        "PYTHONFAULTHANDLER": "1",
        "SUITE_LOG": str(tmp_path / "log"),
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    result = subprocess.run(
        [*command, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "in stuck_here" in result.stdout and "ran out of time; aborted: [" in result.stdout
    assert f"still running: ['sleep {seconds}']" in result.stdout
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", seconds]]
    ended, running = timings.read(tmp_path / "log")
    assert not running and ended["test_hangs.py::test_waits_for_one_that_hangs"] > 1
    assert len(ended) == len(timings.slowest(ended)) == 2


def test_a_test_that_began_and_did_not_end_is_running(tmp_path):
    log = timings.Log(tmp_path / "log")
    log.pytest_runtest_logstart("a.py::test_one[x@y]")
    assert timings.read(log.file)[1].keys() == {"a.py::test_one[x@y]"}


class SlowItem:
    def __init__(self, index: int, seconds: float):
        self.nodeid, self.seconds = f"test_{index}", seconds

    def get_closest_marker(self, name: str):
        return getattr(pytest.mark, name)(self.seconds).mark


def test_a_share_of_the_slow_tests_stays_within_its_time(monkeypatch):
    slow_tests = [SlowItem(index, seconds) for index, seconds in enumerate([10, 100, 170, 40, 12] * 6)]
    selected = {}
    for share in ("none", "0.33", "1", "all"):
        monkeypatch.setenv("SLOW_SHARE", share)
        selected[share] = suite.select_slow_tests(slow_tests)
        assert selected[share] == suite.select_slow_tests(slow_tests)
    assert selected["none"] == [] and selected["all"] == slow_tests
    assert set(selected["0.33"]) <= set(slow_tests) and 0 < len(selected["0.33"]) <= 10
    assert all(sum(item.seconds for item in selected[share]) <= suite.SLOW_SECONDS for share in ("0.33", "1"))


def test_files_are_ranked_by_their_seconds_and_named_over_a_minute():
    ended = {"a.py::one": 1.0, "b.py::one": 40.0, "b.py::two": 30.0}
    assert [row.split() for row in timings.table(ended)[1:]] == [
        ["70.0", "s", "2", "b.py"], ["1.0", "s", "1", "a.py"], ["71.0", "s", "3", "all"],
    ]  # fmt: skip
    assert timings.slow_files(ended) == ["b.py: its quick tests take 70 s, over 60"]
