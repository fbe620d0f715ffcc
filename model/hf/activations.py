"""Names of activations: theirs and ours."""

from __future__ import annotations

from model.hf.config_reader import HuggingFaceError

# Theirs -> ours. Several of theirs are one function; the first is the one that is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


def activation_name(ours: str) -> str:
    """Their name of an activation of ours. Raises HuggingFaceError."""
    for theirs, name in ACTIVATIONS.items():
        if name == ours:
            return theirs
    raise HuggingFaceError(f"activation {ours!r} has no name in transformers")
