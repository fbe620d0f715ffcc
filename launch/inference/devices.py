"""All weights on every device, and the rows split over them: nothing that one computes waits for another.

Texts (scoring.py) and continuations (likelihood.py) are scored so.
"""

from __future__ import annotations

import contextlib

import jax

from model.sharding import make_mesh
from model.transformer import Transformer


def replica_mesh(devices: list[jax.Device] | None = None) -> jax.sharding.Mesh | None:
    """The mesh of these devices, by default of all; None for one alone, which needs none."""
    devices = devices or jax.devices()
    return make_mesh({"replica": 0}, devices) if len(devices) > 1 else None


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def on_every_device(model: Transformer) -> Transformer:
    """A model of one device with its weights on every device of the current mesh; itself where there is no mesh."""
    return model if jax.sharding.get_abstract_mesh().empty else model.to_storage()
