"""Counts the FLOPs of the products in a program's text: `dot`, and the convolutions that TPU's compiler makes of them.

launch/plan/estimate.py calls it, and launch/plan/compiled.py where there is no schedule to walk.
"""

from __future__ import annotations

import math
import re

import numpy as np

from launch.plan import hlo
from launch.plan.hlo import Array, Instruction


def traced_flops(text: str) -> float | None:
    """FLOPs of a whole program's products, of a loop as often as it runs; None where a trip count is not known."""
    program = hlo.read(text)

    def flops_of(name: str) -> float:
        computation, total = program.computations[name], 0.0
        for instruction in computation.values():
            if instruction.opcode in ("dot", "convolution"):
                total += flops(
                    instruction, tuple(computation[operand].arrays[0] for operand in instruction.operands[:2])
                )
            elif instruction.opcode == "while":
                body, trips = flops_of(instruction.called("body")), hlo.trip_count(program, computation, instruction)
                total += body and body * (math.nan if trips is None else trips)
            elif instruction.opcode in ("call", "fusion") and (
                inner := instruction.called("to_apply") or instruction.called("calls")
            ):
                total += flops_of(inner)
        return total

    total = flops_of(program.entry)
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


def convolution_pairs(product: Instruction, image: Array, kernel: Array) -> float:
    """Multiplications of a convolution, without those with padding or between dilated numbers: TPU's compiler writes
    products with batch axes as convolutions over such windows."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes)
    image_labels, kernel_labels, result_labels = labels[1], labels[2], labels[3]
    window = dict(re.findall(r"(\w+)=([\w\-]+)", (re.search(r"window=\{([^}]*)\}", product.attributes) or ["", ""])[1]))
    spatial = [letter for letter in result_labels if letter.isdigit()]

    def setting(name: str, axis: int, default: str) -> str:
        return window[name].split("x")[axis] if name in window else default

    total = 1.0
    for axis, letter in enumerate(spatial):
        low, _, _ = setting("pad", axis, "0_0").partition("_")
        total *= valid_pairs(
            size=image.dims[image_labels.index(letter)],
            kernel=kernel.dims[kernel_labels.index(letter)],
            result=product.arrays[0].dims[result_labels.index(letter)],
            stride=int(setting("stride", axis, "1")),
            low=int(low),
            spread=int(setting("lhs_dilate", axis, "1")),
            apart=int(setting("rhs_dilate", axis, "1")),
        )
    batch, features = product.arrays[0].dims[result_labels.index("b")], product.arrays[0].dims[result_labels.index("f")]
    contracted = kernel.dims[kernel_labels.index("i")]  # of one group
    return total * batch * features * contracted


def valid_pairs(size: int, kernel: int, result: int, stride: int, low: int, spread: int, apart: int) -> int:
    """How many pairs of a position in the result and one in the kernel meet a number of the input, along one axis."""
    positions = np.arange(result)[:, None] * stride + np.arange(kernel)[None, :] * apart - low
    return int(((positions >= 0) & (positions % spread == 0) & (positions // spread < size)).sum())
