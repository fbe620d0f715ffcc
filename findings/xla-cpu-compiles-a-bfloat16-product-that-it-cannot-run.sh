#!/usr/bin/env bash
# jax 0.10.2 on a CPU. A product of bfloat16 operands, with sums in float32, over the first axis of the left one and the
# last of the right one runs where the right one is a matrix. Where it has three axes the program compiles without a word,
# and every call raises UNIMPLEMENTED. With the left operand transposed before, or in float32, it runs. The gradient of
# an einsum is such a product, so a training step may compile and then fail.
# Seen: "Unsupported element type for DotThunk::Execute: BF16 x BF16 = F32". Ends with 1 when it is so no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

square, cube = jnp.ones((24, 24), jnp.bfloat16), jnp.ones((24, 24, 24), jnp.bfloat16)


def multiply(left, right, left_axis):
    axes = ((left_axis,), (right.ndim - 1,)), ((), ())
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


programs = {
    "a matrix": lambda square, cube: multiply(square, square, 0),
    "three axes": lambda square, cube: multiply(square, cube, 0),
    "three axes, transposed": lambda square, cube: multiply(jax.lax.optimization_barrier(square.T), cube, 1),
}
errors = {}
for name, program in programs.items():
    compiled = jax.jit(program).lower(square, cube).compile()
    try:
        jax.block_until_ready(compiled(square, cube))
    except jax.errors.JaxRuntimeError as error:
        errors[name] = str(error)
print(f"jax {jax.__version__}; all three compiled; the calls that failed: {errors}")
raise SystemExit(0 if list(errors) == ["three axes"] and "UNIMPLEMENTED" in errors["three axes"] else 1)
PY
