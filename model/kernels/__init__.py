"""SEAM 1: which program computes attention. model/transformer.py asks for one; this file alone knows a backend.

A kernel takes query [B, N, T, H], key and value [B, K, S, H], a Visible, the score scale and dropout, and returns
the context [B, N, T, H]. Everything is split as the compute table says, time too: a kernel brings together what it
needs.
"""

from __future__ import annotations

import jax

from model.kernels import held, reference
from model.kernels.reference import Visible

__all__ = ["KERNELS", "Visible", "for_cache", "for_rows"]

KERNELS = {"reference": reference.attention, "held": held.attention}
BY_BACKEND: dict[str, str] = {}  # backend -> the kernel `auto` means there; the reference where none is named


def for_rows(name: str):
    """The kernel for whole rows, in training and scoring; `auto`: the ring where time is split, else the backend's."""
    if name == "auto":
        name = BY_BACKEND.get(jax.default_backend(), "reference")
    return KERNELS[name]


def for_cache(name: str):
    """The kernel for tokens that are read with a memory of those before them."""
    return KERNELS["held" if name == "held" else "reference"]
