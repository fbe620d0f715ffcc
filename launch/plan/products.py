"""FLOPs of the products in a program's text: `dot`, and the convolutions that the TPU compiler makes of them.

launch/plan/estimate.py counts with it, and launch/plan/compiled.py where there is no schedule to walk.
"""

from __future__ import annotations

import math
import re

import numpy as np

from launch.plan import hlo
from launch.plan.hlo import Array, Instruction


def traced_flops(text: str) -> float | None:
    """FLOPs of the products in a whole program, a loop's as often as it turns; None where that is not known of one."""
    program = hlo.read(text)

    def within(name: str) -> float:
        here, total = program.computations[name], 0.0
        for made in here.values():
            if made.opcode in ("dot", "convolution"):
                total += flops(made, tuple(here[operand].arrays[0] for operand in made.operands[:2]))
            elif made.opcode == "while":
                body, turns = within(made.called("body")), hlo.trip_count(program, here, made)
                total += body and body * (math.nan if turns is None else turns)
            elif made.opcode in ("call", "fusion") and (inner := made.called("to_apply") or made.called("calls")):
                total += within(inner)
        return total

    total = within(program.entry)
    return None if math.isnan(total) else total


def flops(product: Instruction, operands: tuple[Array, ...]) -> float:
    """Multiplications and additions of a `dot` or `convolution`; 0 for any other."""
    if product.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", product.attributes)
        sizes = [operands[0].dims[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * product.arrays[0].size * math.prod(sizes)
    if product.opcode == "convolution":
        return 2.0 * convolution_pairs(product, *operands)
    return 0.0


def convolution_pairs(product: Instruction, read: Array, kernel: Array) -> float:
    """Multiplications of a convolution. What falls on padding, or between dilated numbers, is none: the TPU compiler
    writes products with batch axes as convolutions over such windows."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes)
    reads, kernels, makes = labels[1], labels[2], labels[3]
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", product.attributes) or ["", ""])[1]))
    spatial = [letter for letter in makes if letter.isdigit()]

    def of(name: str, axis: int, default: str) -> str:
        return window[name].split("x")[axis] if name in window else default

    total = 1.0
    for axis, letter in enumerate(spatial):
        low, _, _ = of("pad", axis, "0_0").partition("_")
        total *= valid_pairs(
            size=read.dims[reads.index(letter)],
            kernel=kernel.dims[kernels.index(letter)],
            made=product.arrays[0].dims[makes.index(letter)],
            stride=int(of("stride", axis, "1")),
            low=int(low),
            spread=int(of("lhs_dilate", axis, "1")),
            apart=int(of("rhs_dilate", axis, "1")),
        )
    batch, features = product.arrays[0].dims[makes.index("b")], product.arrays[0].dims[makes.index("f")]
    contracted = kernel.dims[kernels.index("i")]  # of one group
    return total * batch * features * contracted


def valid_pairs(size: int, kernel: int, made: int, stride: int, low: int, spread: int, apart: int) -> int:
    """Pairs of a place of the result and one of the kernel that meet a number of what is read."""
    places = np.arange(made)[:, None] * stride + np.arange(kernel)[None, :] * apart - low
    return int(((places >= 0) & (places % spread == 0) & (places // spread < size)).sum())
