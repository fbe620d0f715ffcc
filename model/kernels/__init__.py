"""SEAM 1: which program computes attention. model/attention.py calls `attention`; it alone knows a backend.

A kernel takes query [B, N, T, H], key and value [B, K, S, H], a Visible, the score scale and dropout, and returns
the context [B, N, T, H].
"""

from __future__ import annotations

from model.kernels import held, reference
from model.kernels.reference import Visible

__all__ = ["Visible", "attention"]

KERNELS = {"reference": reference.attention, "held": held.attention}
BY_BACKEND: dict[str, str] = {}  # backend -> the kernel `auto` means there; the reference where none is named


def attention(name: str, backend: str):
    """The kernel of that name; `auto` takes the fastest one proven on the backend."""
    return KERNELS[BY_BACKEND.get(backend, "reference") if name == "auto" else name]
