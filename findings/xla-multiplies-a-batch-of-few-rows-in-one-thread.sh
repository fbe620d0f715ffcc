#!/usr/bin/env bash
# jax 0.10.2 on a CPU. XLA multiplies eight rows with one matrix in all threads, and the same rows with the same matrix
# cut into a batch of 48 in one thread. More than eight products that do not wait for each other are shared out again.
# So a batched einsum of few rows may leave all cores but one idle, and a list of twelve of its parts does not.
# Seen on two cores, busy threads in a chain of eight products: a matrix 1.88, a batch of 48 1.01, twelve of 4 1.77.
# (With 64 rows of 1,024 numbers the batch used 1.74 threads.) Ends with 1 when it is so no longer, 2 with one core.
set -euo pipefail
[ "$(nproc)" -ge 2 ] || { echo "needs two cores"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat >"$folder/threads.py" <<'PY'
import time

import jax
import jax.numpy as jnp


def busy_threads(function, *arguments):
    """CPU seconds a second of a function that is called for a while."""
    jitted = jax.jit(function)
    jax.block_until_ready(jitted(*arguments))
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < 3:
        jax.block_until_ready(jitted(*arguments))
    return (time.process_time() - cpu) / (time.perf_counter() - start)


rows, inputs, panels, width = 8, 768, 48, 64
x = jax.random.normal(jax.random.key(0), (rows, inputs))
matrix = jax.random.normal(jax.random.key(1), (inputs, panels * width))
batch = matrix.reshape(inputs, panels, width).swapaxes(0, 1)
parts = [batch[first : first + 4].copy() for first in range(0, panels, 4)]


def multiply(x, batch):
    return jnp.einsum("pri,pic->prc", jnp.broadcast_to(x, (len(batch), *x.shape)), batch)


def chain(product):
    """Eight products, each of which waits for the one before."""

    def run(x, weights):
        for _ in range(8):
            x = x + 1e-3 * product(x, weights).sum() * jnp.ones_like(x)
        return x

    return run


whole = busy_threads(chain(lambda x, w: x @ w), x, matrix)
one = busy_threads(chain(multiply), x, batch)
twelve = busy_threads(chain(lambda x, w: jnp.concatenate([multiply(x, part) for part in w])), x, parts)
print(f"jax {jax.__version__}, busy threads: a matrix {whole:.2f}, a batch of 48 {one:.2f}, twelve of 4 {twelve:.2f}")
assert whole > 1.5, "a busy machine, or one matrix is multiplied in one thread too"
assert one < 1.25 and twelve > 1.5, "a batch of few rows is multiplied in several threads now"
PY
"$folder/venv/bin/python" "$folder/threads.py" 2>/dev/null
