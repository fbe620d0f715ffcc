"""Which jax and which libtpu, TPU's compiler, made a plan, and whether that jax is made for that libtpu.

A jax reads the programs of the one release of libtpu that its extra `tpu` names; those of others perhaps.
launch/plan/compiled.py asks.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from importlib import metadata

import jax


class UnreadableProgram(RuntimeError):
    """A program that this jax can't read, since the compiler is of another release: one line. Exit status 1."""


def versions(platform: str) -> dict[str, str | None]:
    """Of jax, and of the libtpu that compiles for this platform: None where it is no TPU."""
    return {"jax": jax.__version__, "libtpu": libtpu() if platform == "tpu" else None}


def libtpu() -> str | None:
    """The version of TPU's compiler; None where it is in no package."""
    return next((found.version for found in metadata.distributions(name="libtpu")), None)


def expected_libtpu() -> str:
    """The releases of libtpu that this jax is made for, by its own metadata: `0.0.42.*` for 0.10.2."""
    extra = [re.match(r"libtpu\s*==\s*([\w.*]+).*extra == .tpu.", line) for line in metadata.requires("jax") or ()]
    return next((found[1] for found in extra if found), "*")


def format_versions(compiler: dict[str, str | None]) -> str:
    """In words, with what is to be doubted."""
    here, wanted = compiler["libtpu"], expected_libtpu()
    if here is None:
        return f"jax {compiler['jax']}"
    doubt = "" if fnmatch(f"{here}.", wanted) else f", which is made for libtpu {wanted}"
    return f"libtpu {here} for jax {compiler['jax']}{doubt}"


def program_text(built) -> str:
    """The scheduled program of a jax.stages.Compiled. Raises UnreadableProgram, saying what would work."""
    try:
        return built.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise UnreadableProgram(explain_unreadable(str(error))) from error


def explain_unreadable(message: str) -> str:
    """One line of what jaxlib says of a program that it can't read."""
    why = message.strip().splitlines()[0]
    return (
        f"jax {jax.__version__} can't read the program that libtpu {libtpu()} made ({why}); it is made for libtpu "
        f"{expected_libtpu()}: `uv pip install 'libtpu=={expected_libtpu()}'`, or a newer jax where Python has one"
    )
