"""How a tensor of Hugging Face's and a parameter of ours hold the same numbers: a closed set of invertible reshapes.

The tables of model/hf name one for every tensor. A layout turns the tensors that belong together into our arrays and
back, without arithmetic. Arrays are NumPy's, of one layer: without our axis L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Layout(Protocol):
    def their_shapes(self, shapes: list[Shape]) -> list[Shape]:
        """The shapes of their tensors, from those of our arrays."""
        ...

    def to_ours(self, tensors: list[np.ndarray], shapes: list[Shape]) -> list[np.ndarray]:
        """Our arrays, of these shapes, from their tensors."""
        ...

    def to_theirs(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Their tensors, contiguous in memory, from our arrays."""
        ...


@dataclass(frozen=True)
class Vector:
    """All axes of ours, one after another, are theirs: norms and biases."""

    def their_shapes(self, shapes):
        return [(math.prod(shape),) for shape in shapes]

    def to_ours(self, tensors, shapes):
        return [tensor.reshape(shape) for tensor, shape in zip(tensors, shapes, strict=True)]

    def to_theirs(self, arrays):
        return [np.ascontiguousarray(array.reshape(-1)) for array in arrays]


@dataclass(frozen=True)
class Matrix:
    """[I, O], as ours: embeddings, and GPT-2's Conv1D. The first `input_axes` axes of ours are their I."""

    input_axes: int = 1

    def their_shapes(self, shapes):
        return [(math.prod(shape[: self.input_axes]), math.prod(shape[self.input_axes :])) for shape in shapes]

    def to_ours(self, tensors, shapes):
        return [tensor.reshape(shape) for tensor, shape in zip(tensors, shapes, strict=True)]

    def to_theirs(self, arrays):
        shapes = self.their_shapes([array.shape for array in arrays])
        return [np.ascontiguousarray(array.reshape(shape)) for array, shape in zip(arrays, shapes, strict=True)]


@dataclass(frozen=True)
class Linear:
    """[O, I], ours transposed: PyTorch's Linear. The first `input_axes` axes of ours are their I."""

    input_axes: int = 1

    def their_shapes(self, shapes):
        return [shape[::-1] for shape in Matrix(self.input_axes).their_shapes(shapes)]

    def to_ours(self, tensors, shapes):
        return [tensor.T.reshape(shape) for tensor, shape in zip(tensors, shapes, strict=True)]

    def to_theirs(self, arrays):
        return [np.ascontiguousarray(matrix.T) for matrix in Matrix(self.input_axes).to_theirs(arrays)]


@dataclass(frozen=True)
class Joined:
    """Several of ours joined along an axis of one of theirs: query, key and value of GPT-2."""

    part: Layout
    axis: int

    def their_shapes(self, shapes):
        parts = self.part.their_shapes(shapes)
        joined = list(parts[0])
        joined[self.axis] = sum(part[self.axis] for part in parts)
        return [tuple(joined)]

    def to_ours(self, tensors, shapes):
        sizes = [shape[self.axis] for shape in self.part.their_shapes(shapes)]
        return self.part.to_ours(np.split(tensors[0], np.cumsum(sizes)[:-1], self.axis), shapes)

    def to_theirs(self, arrays):
        return [np.concatenate(self.part.to_theirs(arrays), self.axis)]


@dataclass(frozen=True)
class Stacked:
    """Several of theirs are one of ours, along our first axis: the experts of a mixture."""

    part: Layout

    def their_shapes(self, shapes):
        (shape,) = shapes
        return self.part.their_shapes([shape[1:]] * shape[0])

    def to_ours(self, tensors, shapes):
        (shape,) = shapes
        return [np.stack(self.part.to_ours(tensors, [shape[1:]] * shape[0]))]

    def to_theirs(self, arrays):
        return self.part.to_theirs(list(arrays[0]))
