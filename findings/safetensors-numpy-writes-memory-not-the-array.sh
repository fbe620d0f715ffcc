#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6 (CPython 3.11). `safetensors.numpy.save_file` and `save` write an array's memory from
# its first byte on, with the array's shape: of a transposed matrix, of one in Fortran order, of every second element, the
# shape in the file is right and the numbers stand in other places, without an error or a warning. `matrix.T` is what who
# exports a linear layer to PyTorch's [outputs, inputs] would write. The writers for PyTorch (which refuses such tensors)
# and for Flax are right. `np.ascontiguousarray` before it makes it right, too.
# Seen: [[0, 3], [1, 4], [2, 5]], a transposed matrix, comes back as [[0, 1], [2, 3], [4, 5]].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat >"$folder/write.py" <<'end'
import numpy as np
from safetensors.numpy import load, save

matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {
    "transposed": matrix.T,
    "Fortran order": np.asfortranarray(matrix),
    "every second": np.arange(8, dtype=np.float32)[::2],
}
for name, array in arrays.items():
    back = load(save({"x": array}))["x"]
    print(f"{name}: {array.tolist()} is written and comes back as {back.tolist()}")
    assert back.shape == array.shape and not np.array_equal(back, array), "what is written is the array now"
    copied = load(save({"x": np.ascontiguousarray(array)}))["x"]
    assert np.array_equal(copied, array)
end
timeout 120 "$folder/venv/bin/python" "$folder/write.py"
