"""What all layers of one forward pass share, and what flows through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import config as c
from model.kernels import AttentionMask


class ResidualStream(NamedTuple):
    """The residual stream, and the loss terms that layers add for each row (nats a token; mixture of experts)."""

    x_BTD: jax.Array
    auxiliary_loss_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """One pass over tokens [B, T]: a tree whose every array begins with B.

    `positions_BT` counts within a document. While decoding, `start_B` says how many slots are filled already and
    `count_B` how many tokens of this call are real (rows are padded on the right).
    """

    positions_BT: jax.Array
    mask: AttentionMask
    sin_cos: tuple  # sine and cosine of every (rope, head width) in `ropes`, for all layers
    kernel: Callable = dataclasses.field(metadata={"static": True})
    ropes: tuple[tuple[c.Rope, int], ...] = dataclasses.field(metadata={"static": True})
    start_B: jax.Array | None = None
    count_B: jax.Array | None = None
    layer_key: jax.Array | None = None

    def rotary(self, rope: c.Rope, head_width: int) -> tuple[jax.Array, jax.Array]:
        return self.sin_cos[self.ropes.index((rope, head_width))]

    def dropout_key(self, purpose: str) -> jax.Array | None:
        """A dropout key for one use in this layer; None where nothing is dropped."""
        return None if self.layer_key is None else jax.random.fold_in(self.layer_key, DROPOUT_SITES.index(purpose))

    def for_layer(self, key: jax.Array | None) -> ForwardPass:
        return dataclasses.replace(self, layer_key=key)

    def is_document_start(self) -> jax.Array:
        """bool [B, T, 1]: tokens with nothing before them in their document."""
        return jnp.equal(self.positions_BT, 0)[..., None]

    def token_mask(self) -> jax.Array:
        """float32 [B, T]: 1 for tokens, 0 for padding (segment 0)."""
        segments_BT = self.mask.segments_BT
        return jnp.ones_like(self.positions_BT, jnp.float32) if segments_BT is None else (segments_BT > 0) * 1.0


DROPOUT_SITES = ("weights", "mixer", "feed_forward")
