"""Safetensors files that are written a tensor at a time: what the library itself reads from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from model.hf.family import Slot, Tensors
from model.hf.layouts import Linear, Matrix
from train.huggingface.writing import plan_shards, write_weights

torch = pytest.importorskip("torch", reason="reads the files with PyTorch")

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
TENSORS = st.dictionaries(st.text("abc.", min_size=1, max_size=6), SHAPES, min_size=1)


@given(shapes=TENSORS, shard_size=st.integers(1, 400))
def test_shards_hold_every_tensor_once_in_order_and_are_no_larger_than_asked(shapes, shard_size):
    shards = plan_shards(shapes, 4, shard_size)
    assert [entry for shard in shards for entry in shard.shapes.items()] == list(shapes.items())
    for shard in shards:
        size = sum(4 * np.prod(shape) for shape in shard.shapes.values())
        assert size <= shard_size or len(shard.shapes) == 1
    assert len({shard.file for shard in shards}) == len(shards)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_library_reads_transposed_and_sliced_tensors_as_they_are(tmp_path, dtype):
    arrays = {"one": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "table": np.float32([[0.1, -2, 1e-7]])}
    groups = [Tensors((f"l.{i}.w",), (Slot("one", i),), Linear()) for i in range(2)]
    groups.append(Tensors(("t",), (Slot("table", None),), Matrix()))
    write_weights(tmp_path, groups, arrays, dtype, 10**6)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert all(str(tensor.dtype) == f"torch.{dtype}" for tensor in found.values())
    for i in range(2):
        np.testing.assert_array_equal(found[f"l.{i}.w"].float().numpy(), arrays["one"][i].T)
    assert torch.equal(found["t"], torch.tensor(arrays["table"]).to(getattr(torch, dtype)))
