#!/usr/bin/env bash
# jax 0.10.2 (CPython 3.11). Under a mesh with Explicit axes, reshaping an array of size 0 whose shape has a 0 in it
# raises "IndexError: tuple index out of range" while it is traced; with one row of columns more, or without a mesh, the
# same line works. Who pads to multiples meets it with an empty remainder.
# Seen: shape (8, 1) -> (8, 1, 1) works, (8, 0) -> (8, 0, 64) raises IndexError; without the mesh both work.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2
cat >"$folder/reshape.py" <<'end'
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def reshaped(columns: int, width: int) -> str:
    def split(x):
        if not jax.sharding.get_abstract_mesh().empty:
            x = jax.sharding.reshard(x, PartitionSpec("d", None))
        return x.reshape(8, columns, width)

    try:
        return str(jax.jit(split)(jnp.zeros((8, columns * width))).shape)
    except IndexError as error:
        return f"IndexError: {error}"


plain = [reshaped(1, 1), reshaped(0, 64)]
with jax.set_mesh(jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))):
    explicit = [reshaped(1, 1), reshaped(0, 64)]
print("no mesh:", plain)
print("Explicit mesh:", explicit)
assert plain == ["(8, 1, 1)", "(8, 0, 64)"] and explicit[0] == "(8, 1, 1)"
assert explicit[1].startswith("IndexError"), "an empty array can be reshaped now"
end
XLA_FLAGS=--xla_force_host_platform_device_count=2 JAX_PLATFORMS=cpu timeout 120 "$folder/venv/bin/python" "$folder/reshape.py"
