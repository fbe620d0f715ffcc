"""The versions of jax and of libtpu, TPU's compiler, that made a plan, and whether they belong together.

A jax reads the programs of the one release of libtpu that its extra `tpu` names; those of other releases perhaps.
launch/plan/compiled.py and page.py call it.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from importlib import metadata

import jax


class UnreadableProgram(RuntimeError):
    """A program that this jax can't read, since the compiler is of another release: one line. Exit status 1."""


def versions(platform: str) -> dict[str, str | None]:
    """The versions of jax and of libtpu, by name; libtpu's is None where the platform is no TPU."""
    return {"jax": jax.__version__, "libtpu": libtpu() if platform == "tpu" else None}


def libtpu() -> str | None:
    """The version of TPU's compiler; None where it is in no package."""
    return next((found.version for found in metadata.distributions(name="libtpu")), None)


def expected_libtpu() -> str:
    """The releases of libtpu that this jax is made for, by its own package metadata: `0.0.42.*` for 0.10.2."""
    matches = [re.match(r"libtpu\s*==\s*([\w.*]+).*extra == .tpu.", line) for line in metadata.requires("jax") or ()]
    return next((match[1] for match in matches if match), "*")


def format_versions(compiler: dict[str, str | None]) -> str:
    """The versions in words, with a doubt where they do not belong together."""
    libtpu, expected = compiler["libtpu"], expected_libtpu()
    if libtpu is None:
        return f"jax {compiler['jax']}"
    doubt = "" if fnmatch(f"{libtpu}.", expected) else f", which is made for libtpu {expected}"
    return f"libtpu {libtpu} for jax {compiler['jax']}{doubt}"


def program_text(executable) -> str:
    """The text of the scheduled program of a jax.stages.Compiled. Raises UnreadableProgram, saying what would work."""
    try:
        return executable.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise UnreadableProgram(explain_unreadable(str(error))) from error


def explain_unreadable(message: str) -> str:
    """One line from jaxlib's message about a program that it can't read."""
    reason = message.strip().splitlines()[0]
    return (
        f"jax {jax.__version__} can't read the program that libtpu {libtpu()} made ({reason}); it is made for libtpu "
        f"{expected_libtpu()}: `uv pip install 'libtpu=={expected_libtpu()}'`, or a newer jax where Python has one"
    )
