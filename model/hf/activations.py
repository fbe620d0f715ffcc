"""Names of activations: theirs and ours."""

from __future__ import annotations

# Theirs -> ours. Several of theirs are one function; the first is the one that is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def activation_name(ours: str) -> str:
    """Their name of an activation of ours."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)
