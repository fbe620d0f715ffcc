"""Compiler options for each generation of TPU, each with its reason. `train` on that hardware and `plan` use the same.

All those of v5e together: 2.95 -> 2.52 s for the Llama-2 7B step on v5e:16x16, by launch/plan/estimate.py
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
    """The compiler options for a program on devices like this one, by name; empty where it is no TPU.

    The device may be of another machine. Options that LIBTPU_INIT_ARGS sets are left alone; those that the compiler
    does not know are left out, with a warning.
    """
    generation = chips.generation(device.device_kind)
    users_own = os.environ.get("LIBTPU_INIT_ARGS", "")
    options = {flag.name: flag.value for flag in TABLE.get(generation or "", ()) if flag.name not in users_own}
    while options and (refused := refused_options(device, options)):
        names, reason = refused
        warnings.warn(f"this libtpu refuses {', '.join(names)} ({reason}); compiled without", stacklevel=2)
        options = {name: value for name, value in options.items() if name not in names}
    return options


def refused_options(device, options: dict[str, str]) -> tuple[list[str], str] | None:
    """The options that the compiler of this device refuses, and its message; None where it takes all."""
    x = jax.ShapeDtypeStruct((8, 128), jax.numpy.float32, sharding=jax.sharding.SingleDeviceSharding(device))

    def message(options: dict[str, str]) -> str:
        try:
            jax.jit(lambda x: x + 1).lower(x).compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    text = message(options)
    if not text:
        return None
    names = [name for name in options if re.search(rf"\b{name}\b", text)]
    names = names or [name for name, value in options.items() if message({name: value})]
    return names or list(options), text
