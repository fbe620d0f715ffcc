"""What depends on versions of libraries: which libtpu a jax is made for, in pyproject.toml, in the lock and in a plan's
page; which names XLA ignores without a word."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from launch import cli
from launch.commands import plan
from launch.machine import cpu
from launch.plan import versions

ROOT = Path(__file__).parents[2]
REFUSAL = """INTERNAL: RET_CHECK failure (hlo_instruction.cc:390) async-update instruction should have 1 operands
*** Begin stack trace ***"""

# By the metadata of jax on PyPI: jax[tpu] of a version needs this libtpu.
LIBTPU_OF_JAX = {"0.10.2": "0.0.42", "0.11.0": "0.0.44", "0.11.1": "0.0.46", "0.11.2": "0.0.48", "0.12.0": "0.0.50"}


class UnreadableCompiled:
    """A compiled program that jaxlib can't read."""

    def as_text(self):
        raise jax.errors.JaxRuntimeError(REFUSAL)


@pytest.fixture
def set_libtpu(monkeypatch):
    """A function that sets the installed libtpu's version, beside jax 0.10.2 with the requirements of its package."""
    requirements = ["numpy>=2.0", 'libtpu==0.0.42.*; extra == "tpu"', 'requests; extra == "tpu"']
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    monkeypatch.setattr(jax, "__version__", "0.10.2")

    def set_version(version: str):
        monkeypatch.setattr(versions, "libtpu", lambda: version)

    return set_version


def test_a_program_that_cannot_be_read_says_which_libtpu_would_do(set_libtpu, monkeypatch, capsys):
    set_libtpu("0.0.50.1")
    with pytest.raises(versions.UnreadableProgram) as error:
        versions.program_text(UnreadableCompiled())
    line = str(error.value)
    assert "\n" not in line and "stack trace" not in line
    assert all(part in line for part in ("jax 0.10.2", "libtpu 0.0.50.1", "RET_CHECK", "'libtpu==0.0.42.*'"))

    def command(arguments):
        raise error.value

    monkeypatch.setattr(plan, "main", command)
    monkeypatch.setattr(cli.setup, "prepare", lambda *_: None)
    assert cli.main(["plan", "llama:tiny"]) == 1
    assert capsys.readouterr().err == f"skald: {line}\n"


@pytest.mark.parametrize(
    "libtpu, doubted", [("0.0.42", False), ("0.0.42.1", False), ("0.0.43.2", True), ("0.0.420", True)]
)
def test_a_plan_doubts_a_libtpu_that_its_jax_does_not_name(libtpu, doubted, set_libtpu):
    set_libtpu(libtpu)
    line = versions.format_versions(versions.versions("tpu"))
    assert f"libtpu {libtpu}" in line and "jax 0.10.2" in line
    assert ("made for libtpu 0.0.42.*" in line) == doubted
    assert versions.format_versions(versions.versions("cpu")) == "jax 0.10.2"


def test_the_extras_take_their_libtpu_from_jax():
    """A bound of our own would let a libtpu in that the jax beside it can't read."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bound = next(name for name in project["dependencies"] if name.startswith("jax")).removeprefix("jax")
    for extra in ("tpu", "plan"):
        assert [name.partition(";")[0].strip() for name in extras[extra]] == [f"jax[tpu]{bound}"]
    assert "libtpu" not in str(project)


def test_the_lock_has_the_libtpu_that_each_of_its_jaxes_names():
    lock, versions_of = (ROOT / "requirements.lock").read_text(), {}
    for name in ("jax", "libtpu"):
        for version, marker in re.findall(rf"^{name}==(\S+) ; (python_full_version \S+ '3.12')", lock, re.M):
            versions_of.setdefault(marker, []).append(version)
    assert len(versions_of) == 2
    for jaxes, libtpu in versions_of.values():
        assert libtpu.startswith(f"{LIBTPU_OF_JAX['.'.join(jaxes.split('.')[:3])]}.")
    assert versions.expected_libtpu() == f"{LIBTPU_OF_JAX['.'.join(jax.__version__.split('.')[:3])]}.*"


def test_xla_knows_the_pass_that_drops_barriers():
    """A name that it does not know it takes in silence."""
    lowered = jax.jit(lambda x: jnp.tanh(jax.lax.optimization_barrier(x * 2)) + 1).lower(jnp.ones((8, 8)))
    texts = [
        lowered.compile(compiler_options={"xla_disable_hlo_passes": name}).as_text()
        for name in ("none", cpu.BARRIER_REMOVAL)
    ]
    assert ["opt-barrier" in text for text in texts] == [False, True]
