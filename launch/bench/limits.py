"""What this device can do at most: the rate of a large matrix product, and the rate at which memory is read.

launch/bench/training.py and decoding.py turn these rates into tokens a second.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from launch.machine.auto import resolve_auto
from model.config import Execution

# Large enough to fill the device and to hide what a dispatch costs, small enough to take about a second in all.
MATMUL_SIZE = {"cpu": 1024, "accelerator": 8192}  # rows and columns
READ_BYTES = {"cpu": 1 << 28, "accelerator": 1 << 32}  # many times the caches
CALLS, ROUNDS = 5, 4  # calls that are queued together, and how often


def device() -> str:
    return "cpu" if jax.default_backend() == "cpu" else "accelerator"


def compute_dtype(execution: Execution) -> str:
    """The number format of activations and products on this device: what it multiplies fastest, where it is `auto`."""
    return resolve_auto(execution, jax.default_backend()).dtype


def matmul_rate(dtype: str) -> Callable[[], float]:
    """Measures FLOP/s of a large square matrix product in `dtype`, on random numbers: a GPU multiplies zeros faster.
    Its sums are float32, without which a CPU has no fast product of bfloat16."""
    size = MATMUL_SIZE[device()]
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    return lambda: 2 * size**3 / shortest_call(lambda a: multiply(a, a), a)


def reading_rate() -> Callable[[], float]:
    """Measures bytes/s at which memory is read: the better of a sum and of a matrix-vector product over an array that
    is larger than the caches."""
    side = math.isqrt(READ_BYTES[device()] // 4)
    matrix, vector = jnp.ones((side, side)), jnp.ones(side)
    kernels = [jax.jit(jnp.sum), jax.jit(lambda matrix: matrix @ vector)]
    return lambda: matrix.nbytes / min(shortest_call(kernel, matrix) for kernel in kernels)


def shortest_call(function: Callable, array: jax.Array) -> float:
    """Seconds of one call of a jitted function, in the best of several rounds. The calls of a round are queued, so that
    the device never waits for the next."""
    function(array).block_until_ready()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            result = function(array)
        result.block_until_ready()
        best = min(best, (time.perf_counter() - start) / CALLS)
    return best
