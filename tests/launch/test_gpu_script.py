"""launch/bench/gpu.sh on a machine without a GPU: every step once with small shapes, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
STEPS = ["machine", "proof", "decode batch 1", "train gpt2", "train llama", "decode batch 64", "decode batch 8"]
STEPS += ["decode int8", "decode int4"]
BROKEN = """#!/bin/sh
case "$*" in
  *launch.cli*) echo "no memory left" >&2; exit 3 ;;
  *launch.bench.proof*) set -- -m launch.bench.proof reference ;;
esac
exec {python} "$@"
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("timeout") is None, reason="needs timeout of the GNU core utilities"),
    pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU is here: launch/bench/gpu.sh itself"),
]


def run(folder: Path, **environment: str) -> tuple[int, str, dict[str, list[dict]]]:
    """Exit status, standard output and error, and the results by step."""
    environment = {"SKALD_CACHE": str(folder / "cache"), "SKALD_PYTHON": sys.executable, **environment}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))} | environment
    command = ["bash", str(ROOT / "launch/bench/gpu.sh"), str(folder / "figures")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    results: dict[str, list[dict]] = {}
    for line in (folder / "figures/results.jsonl").read_text().splitlines():
        results.setdefault(json.loads(line)["step"], []).append(json.loads(line))
    assert (folder / "figures/summary.txt").read_text() == done.stdout
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["log.txt", "results.jsonl", "summary.txt"]
    return done.returncode, done.stdout + done.stderr, results


@pytest.mark.slow(170)
def test_every_step_runs_with_small_shapes(tmp_path):
    status, text, results = run(tmp_path, SKALD_GPU_TRY="1", SKALD_GPU_SECONDS="800")
    assert status == 0, text
    assert list(results) == STEPS
    assert all(result["outcome"] == "done" for step in results.values() for result in step), text
    peer = results["machine"][0]["peer"]
    for step in STEPS[2:]:
        (result,) = results[step]
        assert result["tokens_per_second"] > 0 and result["limit_tokens_per_second"] > 0
        assert ("against" in result) == (peer and not step.startswith("decode int"))
        assert f"{step}: {result['config']}, batch {result['batch']}: " in text
    assert [r["batch"] for step in STEPS for r in results[step] if r["what"] == "decode"] == [1, 64, 8, 1, 1]
    assert {r["chosen"] for r in results["proof"]} == {"blocks"} and len(results["proof"]) == 8


def test_without_a_gpu_it_says_in_one_line_what_to_install(tmp_path):
    status, text, results = run(tmp_path)
    assert status == 1 and list(results) == ["machine"]
    (line,) = [line for line in text.splitlines() if "sees no GPU" in line]
    assert "extra cuda of pyproject.toml" in line and "SKALD_WHEELS" in line
    assert "Traceback" not in text


def test_a_step_that_fails_is_reported_and_the_next_goes_on(tmp_path):
    python = tmp_path / "python"
    python.write_text(BROKEN.format(python=sys.executable))
    python.chmod(0o755)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "broken-1-py3-none-any.whl").write_text("no wheel")
    status, text, results = run(tmp_path, SKALD_GPU_TRY="1", SKALD_PYTHON=str(python), SKALD_WHEELS=str(wheels))
    assert status == 0, text  # the proof ran
    assert list(results) == ["wheels", *STEPS]
    assert results["wheels"][0]["outcome"].startswith("failed with status")
    for step in STEPS[2:]:
        assert f"{step}: failed with status 3: no memory left\n" in text


def test_steps_that_run_out_of_time_are_ended_and_reported(tmp_path):
    status, text, results = run(tmp_path, SKALD_GPU_TRY="1", SKALD_GPU_SECONDS="6")
    assert status == 124 and list(results) == STEPS
    assert all("out of time after" in f"{results[step][0]['outcome']}" for step in STEPS[1:]), text
    assert "the kernel auto is not proven: training is measured with the reference" in text
