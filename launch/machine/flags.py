"""The compiler's options that matter on each generation of TPU, each with what it does here. `train` on that hardware
and `plan` compile with the same ones.

All of v5e's together: 2.95 -> 2.52 s for the Llama-2 7B step on v5e:16x16, by the walk of launch/plan/estimate.py
without attention's kernels (libtpu 0.0.52). With 48 MiB of VMEM instead of 32 products on v5p:4x4x4 take 30 ms less of
2.1 s, and the compiler a quarter longer. Those of v4 and v6e were only seen to be taken.
"""

from __future__ import annotations

import os
import re
import warnings
from typing import NamedTuple

import jax

from launch.machine import chips


class Flag(NamedTuple):
    name: str
    value: str
    reason: str


VMEM = "larger tiles of products fit on the chip"
HIDES = "all-gathers run beside the products that follow"
TABLE: dict[str, tuple[Flag, ...]] = {
    "v4": (Flag("xla_tpu_enable_async_collective_fusion", "true", HIDES),),
    "v5e": (
        Flag("xla_tpu_scoped_vmem_limit_kib", "32768", VMEM),
        Flag("xla_tpu_enable_async_collective_fusion", "true", HIDES),
        Flag("xla_tpu_enable_async_collective_fusion_multiple_steps", "true", "over several products each"),
        Flag("xla_enable_async_all_reduce", "true", "gradients are summed while the layer before is computed"),
        Flag("xla_tpu_enable_async_collective_fusion_fuse_all_reduce", "true", "the same, inside products"),
        Flag("xla_tpu_overlap_compute_collective_tc", "true", "the same"),
        Flag("xla_jf_crs_combiner_threshold_in_bytes", "1", "all-reduces that are put together stay synchronous"),
    ),
    "v5p": (
        Flag("xla_tpu_scoped_vmem_limit_kib", "49152", VMEM),
        Flag("xla_tpu_enable_sparse_core_collective_offload_all_gather", "true", "gathered by the sparse cores"),
        Flag("xla_tpu_enable_sparse_core_collective_offload_3d_all_gather", "true", "over three axes at once"),
        Flag("xla_tpu_enable_sparse_core_collective_offload_all_reduce", "true", "summed by the sparse cores"),
        Flag("xla_tpu_prefer_async_allgather_to_allreduce", "true", "else gathers become all-reduces of zeros"),
        Flag("xla_enable_async_all_gather", "true", HIDES),
        Flag("xla_tpu_enable_async_collective_fusion", "true", HIDES),
        Flag("xla_tpu_enable_async_collective_fusion_fuse_all_gather", "false", "refused beside sparse cores"),
    ),
    "v6e": (Flag("xla_tpu_scoped_vmem_limit_kib", "65536", VMEM),),
    "tpu7x": (),
}


def compiler_options(device) -> dict[str, str]:
    """The options for a program on devices like this one, which need not be here; none where it is no TPU.

    What LIBTPU_INIT_ARGS sets stays as it is. What the compiler does not know is left out, with a warning.
    """
    generation = chips.generation(device.device_kind)
    mine = os.environ.get("LIBTPU_INIT_ARGS", "")
    wanted = {flag.name: flag.value for flag in TABLE.get(generation or "", ()) if flag.name not in mine}
    while wanted and (refused := refused_options(device, wanted)):
        names, why = refused
        warnings.warn(f"this libtpu refuses {', '.join(names)} ({why}); compiled without", stacklevel=2)
        wanted = {name: value for name, value in wanted.items() if name not in names}
    return wanted


def refused_options(device, wanted: dict[str, str]) -> tuple[list[str], str] | None:
    """Which of these options the compiler of this device does not take, and its words; None where it takes all."""
    here = jax.ShapeDtypeStruct((8, 128), jax.numpy.float32, sharding=jax.sharding.SingleDeviceSharding(device))

    def said(options: dict[str, str]) -> str:
        try:
            jax.jit(lambda x: x + 1).lower(here).compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    words = said(wanted)
    if not words:
        return None
    names = [name for name in wanted if re.search(rf"\b{name}\b", words)]
    names = names or [name for name, value in wanted.items() if said({name: value})]
    return names or list(wanted), words
