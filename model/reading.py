"""What all layers of one forward pass share: where tokens stand, what may be seen, which kernel, which dropout key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from model.kernels import Visible


@dataclasses.dataclass
class Reading:
    """One pass over tokens [B, T].

    `positions_BT` counts within a document. While decoding, `start_B` says how many slots are filled already and
    `count_B` how many tokens of this call are real (rows are padded on the right).
    """

    positions_BT: jax.Array
    visible: Visible
    kernel: Callable
    start_B: jax.Array | None = None
    count_B: jax.Array | None = None
    layer_key: jax.Array | None = None
    turns: dict = dataclasses.field(default_factory=dict)  # (rope, head width) -> sine and cosine, for all layers

    def key(self, purpose: str) -> jax.Array | None:
        """A dropout key for one use in this layer; None where nothing is dropped."""
        return None if self.layer_key is None else jax.random.fold_in(self.layer_key, PURPOSES.index(purpose))

    def in_layer(self, key: jax.Array | None) -> Reading:
        return dataclasses.replace(self, layer_key=key)

    def starts_document(self) -> jax.Array:
        """bool [B, T, 1]: tokens with nothing before them in their document."""
        return jnp.equal(self.positions_BT, 0)[..., None]


PURPOSES = ("weights", "mixer", "feed_forward")
