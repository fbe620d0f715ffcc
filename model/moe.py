"""The mixture-of-experts feed-forward of a block (config.MoE): router, experts, and what keeps their load even.

model/transformer.py builds it in place of an MLP; model/experts.py sends tokens to the experts they chose.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model import config as c
from model.experts import expert_mlp
from model.forward_pass import ForwardPass
from model.kernels.shard_map import shard_map_logical
from model.layers import ParameterFactory, at_least_float32
from model.mlp import MLP
from model.sharding import partition_spec, shard

EPSILON = 1e-20  # the least divisor of a sum of scores: sigmoids may all be 0


class MoE(nnx.Module):
    """A router and its experts. Weights router [D, E], gate and up [E, D, F], down [E, F, D]; `bias` [E] where
    balancing is loss-free."""

    def __init__(self, config: c.MoE, width: int, declare: ParameterFactory):
        self.config = config
        experts, hidden = config.experts, config.width
        self.router = declare.weight(("width", "scores"), (width, experts), keep_float32=True)
        self.bias = (
            declare.balancing_bias(("scores",), (experts,), config.balance_rate) if config.balance_rate else None
        )
        up_axes, down_axes = ("experts", "expert_width", "feed_forward"), ("experts", "feed_forward", "expert_width")
        self.gate = declare.weight(up_axes, (experts, width, hidden)) if config.gated else None
        self.up = declare.weight(up_axes, (experts, width, hidden))
        self.down = declare.residual(down_axes, (experts, hidden, width))
        shared = c.MLP(config.shared, config.activation, config.gated)
        self.shared = MLP(shared, width, declare) if config.shared else None

    def __call__(self, x_BTD: jax.Array, forward_pass: ForwardPass) -> tuple[jax.Array, jax.Array]:
        """[B, T, D] -> [B, T, D], and the auxiliary loss of each row [B]."""
        logits_BTE = self.router_logits(x_BTD)
        scores_BTE = jax.nn.softmax(logits_BTE) if self.config.score == "softmax" else jax.nn.sigmoid(logits_BTE)
        expert_BTK = self.choose_experts(scores_BTE)
        is_chosen_BTKE = expert_BTK[..., None] == jnp.arange(self.config.experts)
        weight_BTK = jnp.where(is_chosen_BTKE, scores_BTE[:, :, None], 0).sum(-1)  # a gather's gradient would be moved
        if self.config.normalised:
            weight_BTK = weight_BTK / jnp.maximum(weight_BTK.sum(-1, keepdims=True), EPSILON)
        matrices = {"gate": self.gate, "up": self.up, "down": self.down}
        matrices = {name: matrix[...] for name, matrix in matrices.items() if matrix is not None}
        out_BTD = expert_mlp(x_BTD, expert_BTK, weight_BTK * self.config.scale, matrices, self.config.activation)
        if self.shared is not None:
            out_BTD = out_BTD + self.shared(x_BTD, forward_pass)[0]
        return out_BTD, self.auxiliary_loss(logits_BTE, scores_BTE, expert_BTK, forward_pass.token_mask())

    def router_logits(self, x_BTD: jax.Array) -> jax.Array:
        """The router's logits [B, T, E], in float32: rounded to bfloat16 they would choose other experts (Fedus et al.
        2021, 2.4)."""
        sharding = partition_spec(("batch", "time", None), (*x_BTD.shape[:2], self.config.experts), "compute")
        router_DE = self.router[...]
        return jnp.einsum("BTD,DE->BTE", at_least_float32(x_BTD), router_DE, precision="highest", out_sharding=sharding)

    def choose_experts(self, scores_BTE: jax.Array) -> jax.Array:
        """The experts with the highest scores, the bias included: int32 [B, T, K]. Of equal scores the first wins."""
        if self.bias is not None:
            scores_BTE = scores_BTE + self.bias[...]

        def choose(scores_BTE):
            return jax.lax.top_k(scores_BTE, self.config.active)[1]

        # On each device's tokens: for a top_k of the whole array the compiler gathers it (seen on CPU).
        axes = ("batch", "time", None)
        return shard_map_logical(choose, (axes,), axes, jax.lax.stop_gradient(scores_BTE))

    def auxiliary_loss(self, logits_BTE, scores_BTE, expert_BTK, mask_BT) -> jax.Array:
        """The auxiliary loss [B] of each row, nats: means over its real tokens, so that no cut of the batch changes it.

        The bias's term is 0, but has a gradient: by how much each expert's share of the row's choices exceeds an even
        share. So that excess is weighted, and summed over microbatches and devices, as any gradient is.
        """
        config = self.config
        tokens_B = jnp.maximum(mask_BT.sum(1), 1)
        chosen_BTE = (expert_BTK[..., None] == jnp.arange(config.experts)).any(2)
        load_BE = (chosen_BTE * mask_BT[..., None]).sum(1)
        choices_B1 = tokens_B[:, None] * config.active
        auxiliary_loss_B = jnp.zeros_like(tokens_B)
        if config.balance_loss:
            share_BTE = scores_BTE / jnp.maximum(scores_BTE.sum(-1, keepdims=True), EPSILON)
            mean_BE = (share_BTE * mask_BT[..., None]).sum(1) / tokens_B[:, None]
            auxiliary_loss_B += config.balance_loss * config.experts * (load_BE / choices_B1 * mean_BE).sum(-1)
        if config.router_z_loss:
            square_BT = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)) * mask_BT
            auxiliary_loss_B += config.router_z_loss * square_BT.sum(1) / tokens_B
        if self.bias is not None:
            excess_BE = (config.experts * load_BE - load_BE.sum(-1, keepdims=True)) / (config.experts * choices_B1)
            bias_E = self.bias[...]
            auxiliary_loss_B += (excess_BE * (bias_E - jax.lax.stop_gradient(bias_E))).sum(-1)
        return shard(auxiliary_loss_B, "batch")
