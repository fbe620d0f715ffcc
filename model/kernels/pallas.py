"""Replaces `pallas_call` in the modules of JAX's own kernels. splash.py and megablox.py use it, and say with what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType


class PatchedPallas:
    """JAX's Pallas module with another `pallas_call`, which is called with JAX's own one before all arguments."""

    def __init__(self, pallas: ModuleType, pallas_call: Callable):
        self.pallas, self.pallas_call = pallas, functools.partial(pallas_call, pallas.pallas_call)

    def __getattr__(self, name: str):
        return getattr(self.pallas, name)


def patch_pallas_call(module: ModuleType, pallas_call: Callable) -> None:
    """Replaces `pallas_call`, once, in a module that imports Pallas as `pl`; planning threads may do so together."""
    if not isinstance(module.pl, PatchedPallas):
        module.pl = PatchedPallas(module.pl, pallas_call)
