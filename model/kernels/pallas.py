"""Kernels of JAX's own, whose modules call Pallas in a way of ours. splash.py and megablox.py say in which."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType


class PatchedPallas:
    """JAX's Pallas with another `pallas_call`: a function of JAX's own and of what that is given."""

    def __init__(self, pallas: ModuleType, pallas_call: Callable):
        self.pallas, self.pallas_call = pallas, functools.partial(pallas_call, pallas.pallas_call)

    def __getattr__(self, name: str):
        return getattr(self.pallas, name)


def patch_pallas_call(module: ModuleType, pallas_call: Callable) -> None:
    """Into a module that knows Pallas as `pl`, once: threads that plan may come here together."""
    if not isinstance(module.pl, PatchedPallas):
        module.pl = PatchedPallas(module.pl, pallas_call)
