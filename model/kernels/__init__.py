"""SEAM 1, kernels: which program computes attention, and the experts' products. model/transformer.py and
model/experts.py ask for one; this file alone knows a backend.

A kernel takes query [B, N, T, H], already scaled, key and value [B, K, S, H], an AttentionMask, dropout (rate, key) and
a cap of the scores (or None), and returns the context [B, N, T, H], where H may be another width than the query's: the
value's. All are split as the compute table says, time too: a kernel gathers what it needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from model.kernels import blocks, cached, cudnn, megablox, page_by_page, paged, reference, ring, splash, windows
from model.kernels.reference import AttentionMask
from model.sharding import shard_count

__all__ = ["KERNELS", "AttentionMask", "Kernel", "KernelError"]
__all__ += ["attention_kernel", "choose_kernel", "decoding_kernel", "grouped_matmul"]
__all__ += ["page_by_page_attention", "paged_attention", "reads_pages"]


class KernelError(ValueError):
    """An attention kernel cannot compute what is asked of it, or computes something else. The message is one line."""


class Kernel(NamedTuple):
    """One program for attention: the function that computes it, and where it runs.

    `refusal(query, key, value, mask, weight_dropout, score_cap)` says why `attention` cannot compute such shapes and
    types on this mesh, and what to set instead; None where it can. `auto` takes the kernel on `backend`, for rows
    longer than `longer_than` tokens; a `portable` one runs on other backends too. `names_residuals`: it gives the
    checkpoint name `context` to what its backward pass needs, so that model/schedule.py saves it; `attention_kernel`
    names the others' context.
    `proof_length`: tokens per device of a row that crosses every border of its blocks (model/kernels/proof.py).
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
        splash.attention, splash.refusal, "tpu", portable=False, proof_length=2 * splash.BLOCK_Q, names_residuals=True
    ),
}

GROUPED_MATMULS = {"tpu": megablox.grouped_matmul, "cpu": windows.grouped_matmul}  # elsewhere XLA's own


@functools.cache
def attention_kernel(name: str) -> Callable:
    """The attention function for whole rows, in training and scoring (T == S). It raises KernelError when called with
    what the kernel of this name cannot compute."""

    def attention(
        query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None), score_cap=None
    ) -> jax.Array:
        arguments = (query_BNTH, key_BKSH, value_BKSH, mask, weight_dropout, score_cap)
        kernel = KERNELS[choose_kernel(name, *arguments)]
        context_BNTH = kernel.attention(*arguments)
        # A context that is named twice would be saved twice.
        return context_BNTH if kernel.names_residuals else checkpoint_name(context_BNTH, "context")

    return attention


def decoding_kernel(name: str) -> Callable:
    """The attention function for decoding, whose keys and values come from a cache."""
    return KERNELS["cached" if name == "cached" else "reference"].attention


def choose_kernel(
    name: str, query_BNTH, key_BKSH, value_BKSH, mask: AttentionMask, weight_dropout=(0.0, None), score_cap=None
) -> str:
    """The name of the kernel that computes these rows; arrays may be jax.ShapeDtypeStruct.

    `auto` is the ring where the mesh splits time, else the kernel of this backend; the reference where that cannot take
    the rows. Raises KernelError if a kernel requested by its own name cannot.
    """
    backend, arguments = platform(), (query_BNTH, key_BKSH, value_BKSH, mask, weight_dropout, score_cap)
    if name == "auto":
        length = query_BNTH.shape[2]
        names = ["ring"] if shard_count("time") > 1 else [n for n, k in KERNELS.items() if k.backend == backend]
        names = [n for n in names if length > KERNELS[n].longer_than]
        return next((n for n in names if KERNELS[n].refusal(*arguments) is None), "reference")
    kernel = KERNELS[name]
    if kernel.backend not in (None, backend) and not kernel.portable:
        raise KernelError(f"execution.kernel={name} runs on {kernel.backend} and this is {backend}; auto fits itself")
    reason = kernel.refusal(*arguments)
    if reason is not None:
        raise KernelError(f"execution.kernel={name} {reason}")
    return name


def grouped_matmul(rows_RD: jax.Array, matrices_EDF: jax.Array, group_sizes_E: jax.Array) -> jax.Array:
    """Multiplies each row with the matrix of its group: [R, F]. The first group_sizes[0] rows are group 0, and so on;
    rows past the last group are undefined, forward and backward."""
    return GROUPED_MATMULS.get(platform(), jax.lax.ragged_dot)(rows_RD, matrices_EDF, group_sizes_E)


paged_attention, page_by_page_attention = paged.attention, page_by_page.attention


def reads_pages(kv_heads: int, widths: tuple[int, int], dtype) -> bool:
    """Whether `paged_attention` can attend, on this backend, to keys and values of these widths that lie in pages."""
    return platform() == "tpu" and paged.can_run(kv_heads, widths, dtype)


def platform() -> str:
    """cpu, gpu or tpu, whichever the mesh's devices are; they need not be here (a program compiled ahead of time)."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
