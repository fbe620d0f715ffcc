"""Layouts turn tensors of theirs into our arrays and back, bit for bit; stacks cover lists of layers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.hf.layouts import Joined, Linear, Matrix, Stacked, Vector
from model.hf.stacks import as_stacks

sizes = st.integers(1, 4)
shapes = st.lists(sizes, min_size=2, max_size=4).map(tuple)


@st.composite
def layout_and_shapes(draw):
    """A layout, and the shapes of arrays of ours that it can hold."""
    shape = draw(shapes)
    part = draw(st.sampled_from([Vector(), *(kind(n) for kind in (Matrix, Linear) for n in range(1, len(shape)))]))
    join = draw(st.sampled_from(["alone", "joined", "stacked"]))
    if join == "stacked":
        return Stacked(part), [(draw(sizes), *shape)]
    if join == "alone":
        return part, [shape]
    # Joined along their outputs: the axes of ours that are their inputs are alike, the others may differ.
    inputs = 0 if isinstance(part, Vector) else part.input_axes
    others = [shape[:inputs] + tuple(draw(sizes) for _ in shape[inputs:]) for _ in range(2)]
    return Joined(part, 1 if isinstance(part, Matrix) else 0), [shape, *others]


@settings(deadline=None, database=None)
@given(layout_and_shapes())
def test_every_layout_gives_back_what_it_was_given(case):
    layout, shapes = case
    noise = np.random.default_rng(0)
    arrays = [noise.standard_normal(shape, np.float32) for shape in shapes]
    tensors = layout.to_theirs(arrays)
    assert [tensor.shape for tensor in tensors] == layout.their_shapes(shapes)
    assert all(tensor.flags.c_contiguous for tensor in tensors)  # else safetensors would write other numbers
    for array, found in zip(arrays, layout.to_ours(tensors, shapes), strict=True):
        np.testing.assert_array_equal(array, found)


def test_each_layout_multiplies_as_the_layer_of_theirs_does():
    x, weight = np.arange(6.0), np.random.default_rng(0).standard_normal((6, 2, 3))  # ours: [D, N, H]
    expected = np.einsum("D,DNH->NH", x, weight).reshape(-1)
    (linear,), (conv1d,) = Linear().to_theirs([weight]), Matrix().to_theirs([weight])
    np.testing.assert_allclose(linear @ x, expected)  # PyTorch's Linear: [O, I]
    np.testing.assert_allclose(x @ conv1d, expected)  # GPT-2's Conv1D: [I, O]
    (joined,) = Joined(Matrix(), 1).to_theirs([weight, 2 * weight])
    np.testing.assert_allclose(x @ joined, np.concatenate([expected, 2 * expected]))


def block(letter: str) -> c.Block:
    return c.Block(c.Attention(1, 1, 2), c.MLP(ord(letter)))


def letters(stacks) -> list[tuple[str, int]]:
    return [("".join(chr(b.feed_forward.width) for b in stack.pattern), stack.repeats) for stack in stacks]


def smallest(layers: str) -> tuple[int, int]:
    """The least number of blocks in patterns that cover the layers, and of stacks with as many, by trying all."""
    if not layers:
        return 0, 0
    covers = []
    for size in range(1, len(layers) + 1):
        for repeats in range(1, len(layers) // size + 1):
            if layers[: size * repeats] == layers[:size] * repeats:
                compiled, stacks = smallest(layers[size * repeats :])
                covers.append((compiled + size, stacks + 1))
    return min(covers)


@settings(deadline=None, database=None)
@given(st.text("abc", min_size=1, max_size=9) | st.sampled_from(["aaaaab" * 2, "ab" * 6, "aaabaaaba"]))
def test_stacks_are_the_layers_in_their_order_with_the_fewest_blocks_that_any_cover_has(layers):
    stacks = letters(as_stacks([block(letter) for letter in layers]))
    assert "".join(pattern * repeats for pattern, repeats in stacks) == layers
    assert (sum(len(pattern) for pattern, _ in stacks), len(stacks)) == smallest(layers)
