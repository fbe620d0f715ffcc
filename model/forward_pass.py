"""The inputs that all layers of a forward pass share (ForwardPass), and the residual stream that runs through them.

model/transformer.py creates both and passes them to every layer, in the order of model/schedule.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import config as c
from model.cache import FilledSlots
from model.kernels import AttentionMask


class ResidualStream(NamedTuple):
    """The residual stream, and the auxiliary loss of each row so far (nats a token; from mixtures of experts)."""

    x_BTD: jax.Array
    auxiliary_loss_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """What every layer needs to know of one forward pass over tokens [B, T]: a pytree whose arrays all begin with B.

    `positions_BT` counts within a document. While decoding, `slots` says which slots of its memory each row has filled
    already, and how many of its tokens in this call are real (rows are padded on the right).
    """

    positions_BT: jax.Array
    mask: AttentionMask
    sin_cos: tuple  # (sine, cosine) of each (rope, head width) in `ropes`
    kernel: Callable = dataclasses.field(metadata={"static": True})
    ropes: tuple[tuple[c.Rope, int], ...] = dataclasses.field(metadata={"static": True})
    slots: FilledSlots | None = None
    layer_key: jax.Array | None = None  # set inside a layer only (`for_layer`), and the one array without an axis B

    def rotary(self, rope: c.Rope, head_width: int) -> tuple[jax.Array, jax.Array]:
        return self.sin_cos[self.ropes.index((rope, head_width))]

    def dropout_key(self, site: str) -> jax.Array | None:
        """The dropout key of one of DROPOUT_SITES in this layer; None if dropout is off."""
        return None if self.layer_key is None else jax.random.fold_in(self.layer_key, DROPOUT_SITES.index(site))

    def for_layer(self, key: jax.Array | None) -> ForwardPass:
        return dataclasses.replace(self, layer_key=key)

    def is_document_start(self) -> jax.Array:
        """bool [B, T, 1]: True for the first token of each document."""
        return jnp.equal(self.positions_BT, 0)[..., None]

    def token_mask(self) -> jax.Array:
        """float32 [B, T]: 1 for tokens, 0 for padding (segment 0)."""
        segments_BT = self.mask.segments_BT
        return jnp.ones_like(self.positions_BT, jnp.float32) if segments_BT is None else (segments_BT > 0) * 1.0


DROPOUT_SITES = ("weights", "mixer", "feed_forward")
