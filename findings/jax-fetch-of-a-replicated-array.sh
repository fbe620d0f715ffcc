#!/usr/bin/env bash
# jax 0.10.2 (CPython 3.11), two CPU devices. jax.device_get (and numpy.asarray) of an array that is whole on every
# device reads the first device's copy, and returns as soon as that one is there: the other devices may still be busy
# with the same program. So "I have its value" does not mean "it has ended": a time taken then is too short, and what is
# dispatched next runs beside it. jax.block_until_ready waits for all devices.
# Seen: "fetched after 0.00 s, ready everywhere: False; after block_until_ready 0.5 s: True" (a two-core machine).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cat >"$folder/fetch.py" <<'end'
import os
import time

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp

mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))


def negate(x, long):
    """Negates an even number of times, on the second device `long` times more: the same value on both."""
    turns = jnp.where(jax.lax.axis_index("device") == 0, 2, 2 * long)
    return jax.lax.fori_loop(0, turns, lambda _, x: -x, x)


spec = jax.sharding.PartitionSpec()
run = jax.jit(jax.shard_map(negate, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False))
x = jnp.arange(1024.0)
jax.block_until_ready(run(x, 1))  # compiled

began = time.perf_counter()
made = run(x, 2_000_000)
value = jax.device_get(made)
fetched, ready = time.perf_counter() - began, made.is_ready()
jax.block_until_ready(made)
whole = time.perf_counter() - began
print(f"fetched after {fetched:.2f} s, ready everywhere: {ready}; after block_until_ready {whole:.1f} s: {made.is_ready()}")
assert (value == x).all() and made.sharding.is_fully_replicated
assert not ready and fetched < whole / 4 and made.is_ready(), "it waits for all devices now"
end
timeout 120 "$folder/venv/bin/python" "$folder/fetch.py"
