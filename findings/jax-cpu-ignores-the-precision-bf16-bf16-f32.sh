#!/usr/bin/env bash
# jax 0.10.2 on a CPU. A product with precision BF16_BF16_F32 (or under jax.default_matmul_precision of that name) is
# traced and compiled as such: the compiled program says algorithm=dot_bf16_bf16_f32. But its operands are not rounded:
# the result is float32's, at float32's speed. Who tests the rounding of a GPU or TPU program on a CPU tests nothing.
# Operands cast to bfloat16 with sums in float32 are rounded, and twice as fast on a processor with AVX512-BF16.
# Seen for 256 x 256 numbers: the precision is 4e-5 off the exact product and 0.2 off the rounded one; the cast 0.2 and
# 2e-5. Ends with 1 when it is so no longer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.5.4
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
rounded = x.astype(ml_dtypes.bfloat16).astype(np.float64)
exact_product, rounded_product = x.astype(np.float64) @ x, rounded @ rounded


def by_precision(x):
    return jax.lax.dot(x, x, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32)


def by_cast(x):
    return jax.lax.dot(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def distances(function):
    found = np.asarray(jax.jit(function)(x))
    return [float(np.abs(found - wanted).max()) for wanted in (exact_product, rounded_product)]


compiled = jax.jit(by_precision).lower(x).compile().as_text()
named, precision, cast = "dot_bf16_bf16_f32" in compiled, distances(by_precision), distances(by_cast)
print(f"jax {jax.__version__}; the compiled program names the algorithm: {named}")
print(f"largest difference from the exact and from the rounded product: by precision {precision}, by cast {cast}")
raise SystemExit(0 if named and precision[0] < 1e-3 < precision[1] and cast[1] < 1e-3 < cast[0] else 1)
PY
