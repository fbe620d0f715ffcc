"""SEAM 1: which program computes attention, and the experts' products. model/transformer.py and model/experts.py ask
for one; this file alone knows a backend.

A kernel takes query [B, N, T, H], scaled, key and value [B, K, S, H], a Visible and dropout, and returns the context
[B, N, T, H]. Everything is split as the compute table says, time too: a kernel brings together what it needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from model.kernels import blocks, cached, cudnn, megablox, reference, ring, splash
from model.kernels.reference import AttentionMask
from model.sharding import shard_count

__all__ = ["KERNELS", "Kernel", "KernelError", "Visible", "chosen", "for_cache", "for_rows", "grouped_product"]


class KernelError(ValueError):
    """An attention kernel that cannot compute what it is asked, or computes something else: one line."""


class Kernel(NamedTuple):
    """`attention` computes it. `refusal(query, key, visible, drop)`: why it cannot, for these shapes and types on this
    mesh, and what to set instead; None where it can.

    `backend`: where `auto` takes it, for rows longer than `above` tokens; `portable`: it runs on others too. `names`:
    it names `context` what its backward pass needs, so that model/schedule.py keeps it; others' context is named here.
    `short`: tokens a device of a row that crosses every border of its blocks (model/kernels/proof.py).
    """

    attention: Callable
    refusal: Callable = lambda *_: None
    backend: str | None = None
    longer_than: int = 0
    portable: bool = True
    names_residuals: bool = False
    proof_length: int = 64


KERNELS = {
    "reference": Kernel(reference.attention),
    "cached": Kernel(cached.attention),
    "ring": Kernel(ring.attention, ring.refusal, names_residuals=True),
    "blocks": Kernel(blocks.attention, blocks.refusal, "cpu", longer_than=blocks.BLOCK, proof_length=2 * blocks.BLOCK),
    "cudnn": Kernel(cudnn.attention, cudnn.refusal, "gpu", portable=False, proof_length=128),
    "splash": Kernel(
        splash.attention, splash.refusal, "tpu", portable=False, proof_length=2 * splash.QUERIES, names_residuals=True
    ),
}


@functools.cache
def attention_kernel(name: str) -> Callable:
    """The kernel for whole rows, in training and scoring (T == S). It raises KernelError where it is called with what
    the kernel of this name cannot compute."""

    def attention(query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None)) -> jax.Array:
        kernel = KERNELS[choose_kernel(name, query_BNTH, key_BKSH, mask, weight_dropout)]
        context_BNTH = kernel.attention(query_BNTH, key_BKSH, value_BKSH, mask, weight_dropout)
        return (
            context_BNTH if kernel.names_residuals else checkpoint_name(context_BNTH, "context")
        )  # twice would be kept twice

    return attention


def decoding_kernel(name: str) -> Callable:
    """The kernel for tokens that are read with a memory of those before them."""
    return KERNELS["cached" if name == "cached" else "reference"].attention


def choose_kernel(name: str, query_BNTH, key_BKSH, mask: AttentionMask, weight_dropout=(0.0, None)) -> str:
    """The name of the kernel that computes these rows. Arrays may be shapes alone.

    `auto`: the ring where the mesh splits time, else the one made for this backend; the reference where that cannot
    take the rows. Raises KernelError where the kernel asked for by name cannot.
    """
    backend = platform()
    if name == "auto":
        length = query_BNTH.shape[2]
        fits = ["ring"] if shard_count("time") > 1 else [n for n, k in KERNELS.items() if k.backend == backend]
        fits = [n for n in fits if length > KERNELS[n].longer_than]
        return next(
            (n for n in fits if KERNELS[n].refusal(query_BNTH, key_BKSH, mask, weight_dropout) is None), "reference"
        )
    kernel = KERNELS[name]
    if kernel.backend not in (None, backend) and not kernel.portable:
        raise KernelError(f"execution.kernel={name} runs on {kernel.backend} and this is {backend}; auto fits itself")
    reason = kernel.refusal(query_BNTH, key_BKSH, mask, weight_dropout)
    if reason is not None:
        raise KernelError(f"execution.kernel={name} {reason}")
    return name


def grouped_matmul(rows_RD: jax.Array, matrices_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """[R, F]: each row with its group's matrix, the first sizes[0] with the first. Undefined past the last group,
    forward and backward."""
    product = megablox.grouped_matmul if platform() == "tpu" else jax.lax.ragged_dot
    return product(rows_RD, matrices_EDF, sizes_E)


def platform() -> str:
    """cpu, gpu or tpu: of the mesh's devices, which need not be here (a program compiled ahead of time)."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
