#!/usr/bin/env bash
# flax 0.12.8 with jax 0.10.2 (CPython 3.11). The metadata of an nnx.Variable answer before the attributes of its array,
# whatever they are called: with metadata `size`, `ndim` and `dtype` of a user's own, whoever counts parameters by
# `variable.size`, or asks for `variable.dtype`, gets the metadata, without a warning. `shape` is the exception: it is
# stored and never answers. `replace` with a misspelled name is no error either: it adds a field, the old value stays.
# Seen: a [3, 4] parameter has size 7, dtype "stored as int8", ndim 9, shape (3, 4); after replace(axess=("b",)) its
# axes are ("a",).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 flax==0.12.8
cat >"$folder/metadata.py" <<'end'
import jax
import jax.numpy as jnp
from flax import nnx

parameter = nnx.Param(jnp.ones((3, 4)), size=7, dtype="stored as int8", ndim=9, shape=(1,), axes=("a",))
variables = jax.tree.leaves({"weight": parameter}, is_leaf=lambda x: isinstance(x, nnx.Variable))
count, arrays = sum(x.size for x in variables), sum(x.size for x in jax.tree.leaves(parameter))
print(count, arrays, parameter.dtype, parameter.ndim, parameter.shape)
assert (count, arrays) == (7, 12), "the array's own size answers now"
assert (parameter.dtype, parameter.ndim) == ("stored as int8", 9) and parameter[...].dtype == jnp.float32
assert parameter.shape == (3, 4) and parameter.get_metadata()["shape"] == (1,), "shape is as the others now"
changed = parameter.replace(axess=("b",))
print(changed.axes, changed.axess)
assert (changed.axes, changed.axess) == (("a",), ("b",)), "a misspelled field is no longer added"
end
JAX_PLATFORMS=cpu timeout 120 "$folder/venv/bin/python" "$folder/metadata.py"
