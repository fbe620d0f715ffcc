"""The mixture-of-experts feed-forward of a block (config.MoE): router, experts, and what keeps their load even.

model/transformer.py builds it in the place of an MLP. Routing is written on whole arrays; the experts run in one
shard_map, each device's on the tokens that chose them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import config as c
from model.layers import Declare, precise
from model.mlp import ACTIVATIONS, MLP
from model.reading import Reading
from model.sharding import lying, place, spec

SMALLEST = 1e-20  # below the sum of any scores: sigmoids may all be 0


class MoE(nnx.Module):
    """Weights router [D, E], gate and up [E, D, F], down [E, F, D]; `bias` [E] where balancing is loss-free."""

    def __init__(self, config: c.MoE, width: int, declare: Declare):
        self.config = config
        experts, hidden = config.experts, config.width
        self.router = declare.weight(("width", "scores"), (width, experts), exact=True)
        self.bias = declare.balance(("scores",), (experts,), config.balance_rate) if config.balance_rate else None
        into, out = ("experts", "expert_width", "feed_forward"), ("experts", "feed_forward", "expert_width")
        self.gate = declare.weight(into, (experts, width, hidden)) if config.gated else None
        self.up = declare.weight(into, (experts, width, hidden))
        self.down = declare.residual(out, (experts, hidden, width))
        shared = c.MLP(config.shared, config.activation, config.gated)
        self.shared = MLP(shared, width, declare) if config.shared else None

    def __call__(self, x_BTD: jax.Array, reading: Reading) -> tuple[jax.Array, jax.Array]:
        """[B, T, D] -> [B, T, D], and what it adds to the loss of each row [B]."""
        logits_BTE = self.logits(x_BTD)
        scores_BTE = jax.nn.softmax(logits_BTE) if self.config.score == "softmax" else jax.nn.sigmoid(logits_BTE)
        chosen_BTK = self.chosen(scores_BTE)
        weight_BTK = jnp.take_along_axis(scores_BTE, chosen_BTK, axis=-1)
        if self.config.normalised:
            weight_BTK = weight_BTK / jnp.maximum(weight_BTK.sum(-1, keepdims=True), SMALLEST)
        matrices = {"gate": self.gate, "up": self.up, "down": self.down}
        matrices = {name: matrix[...] for name, matrix in matrices.items() if matrix is not None}
        out_BTD = routed(x_BTD, chosen_BTK, weight_BTK * self.config.scale, matrices, self.config.activation)
        if self.shared is not None:
            out_BTD = out_BTD + self.shared(x_BTD, reading)[0]
        return out_BTD, self.penalty(logits_BTE, scores_BTE, chosen_BTK, reading.real_BT())

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, E], in float32: rounded to bfloat16 they would choose other experts (Fedus et al. 2021, 2.4)."""
        wanted = spec(("batch", "time", None), (*x_BTD.shape[:2], self.config.experts), "compute")
        router_DE = self.router[...]
        return jnp.einsum("BTD,DE->BTE", precise(x_BTD), router_DE, precision="highest", out_sharding=wanted)

    def chosen(self, scores_BTE: jax.Array) -> jax.Array:
        """int32 [B, T, K]: the experts of the highest scores, the bias counted in; the first of equal ones."""
        if self.bias is not None:
            scores_BTE = scores_BTE + self.bias[...]
        return jax.lax.top_k(jax.lax.stop_gradient(scores_BTE), self.config.active)[1]

    def penalty(self, logits_BTE, scores_BTE, chosen_BTK, real_BT) -> jax.Array:
        """[B], nats: means over each row's real tokens, so that no cut of the batch changes them.

        The bias adds 0. What it adds has a gradient: by how much each expert's share of the row's choices exceeds an
        even one. So it is weighted, and summed over microbatches and devices, as any gradient is.
        """
        config = self.config
        tokens_B = jnp.maximum(real_BT.sum(1), 1)
        took_BTE = (chosen_BTK[..., None] == jnp.arange(config.experts)).any(2)
        load_BE = (took_BTE * real_BT[..., None]).sum(1)
        choices_B1 = tokens_B[:, None] * config.active
        penalty_B = jnp.zeros_like(tokens_B)
        if config.balance_loss:
            share_BTE = scores_BTE / jnp.maximum(scores_BTE.sum(-1, keepdims=True), SMALLEST)
            mean_BE = (share_BTE * real_BT[..., None]).sum(1) / tokens_B[:, None]
            penalty_B += config.balance_loss * config.experts * (load_BE / choices_B1 * mean_BE).sum(-1)
        if config.router_z_loss:
            square_BT = jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)) * real_BT
            penalty_B += config.router_z_loss * square_BT.sum(1) / tokens_B
        if self.bias is not None:
            excess_BE = (config.experts * load_BE - load_BE.sum(-1, keepdims=True)) / (config.experts * choices_B1)
            bias_E = self.bias[...]
            penalty_B += (excess_BE * (bias_E - jax.lax.stop_gradient(bias_E))).sum(-1)
        return place(penalty_B, "batch")


class Over(NamedTuple):
    """The mesh axes that a shard's experts, their width at rest and their hidden features are split over, None for
    none; and those over which weights are the same and only their gradients are summed."""

    experts: str | tuple[str, ...] | None
    width: str | tuple[str, ...] | None
    features: str | tuple[str, ...] | None
    copies: tuple[str, ...]


def routed(x_BTD, chosen_BTK, weight_BTK, matrices: dict[str, jax.Array], activation: str) -> jax.Array:
    """[B, T, D] -> [B, T, D]: for each token the sum of its chosen experts' outputs, weighted; none is dropped.

    What travels, with n tokens on each of e expert shards: all tokens are gathered, results are summed and scattered,
    (e - 1) n D numbers each way. An all-to-all would send a token to the shards it chose only, min(e, K) of them at
    most: (e - 1) / e * min(e, K) n D. Up to e = K that is no less, and shapes are fixed here; at e = 8, K = 2 it is a
    quarter. Buffers hold e n K rows either way, since all tokens may choose one shard. Besides, weights are gathered
    over data and context, in the dtype they are used in, and their gradients scattered back.
    """
    given = (x_BTD, chosen_BTK, weight_BTK, matrices)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return on_a_shard(*given, over=Over(None, None, None, ()), activation=activation)
    lies = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, given)
    over = Over(*lying(matrices["up"]), copies=tuple(lies[-1]["up"].reduced))
    run = functools.partial(on_a_shard, over=over, activation=activation)
    return jax.shard_map(run, in_specs=lies, out_specs=lies[0], axis_names=set(mesh.explicit_axes))(*given)


def on_a_shard(x_BTD, chosen_BTK, weight_BTK, matrices, over: Over, activation: str) -> jax.Array:
    """`routed` as one device sees it: its own tokens in and out, its own experts' pieces."""
    tokens = [gathered_over(over.experts, x, 0) for x in (x_BTD, chosen_BTK, weight_BTK)]
    tokens = [x.reshape(-1, x.shape[-1]) for x in tokens]
    if over.copies:  # before they are gathered: so their gradients are summed after they were scattered, in pieces
        matrices = {name: jax.lax.pcast(matrix, over.copies, to="varying") for name, matrix in matrices.items()}
    matrices = {
        name: gathered_over(over.width, matrix, 2 if name == "down" else 1) for name, matrix in matrices.items()
    }
    first = jax.lax.axis_index(over.experts) * len(matrices["up"]) if over.experts else 0
    out_BTD = summed_experts(*tokens, matrices, first, activation).reshape(-1, *x_BTD.shape[1:])
    if over.experts:
        out_BTD = jax.lax.psum_scatter(out_BTD, over.experts, scatter_dimension=0, tiled=True)
    return jax.lax.psum(out_BTD, over.features) if over.features else out_BTD


def gathered_over(over, x: jax.Array, axis: int) -> jax.Array:
    """The pieces that mesh axes hold of `axis`, together; x where they are none."""
    return jax.lax.all_gather(x, over, axis=axis, tiled=True) if over else x


def summed_experts(x_MD, chosen_MK, weight_MK, matrices, first, activation: str) -> jax.Array:
    """[M, D] -> [M, D]: what experts `first`, first + 1, … (as many as the matrices hold) add for those who chose them.

    Every choice of a token is a row, R = M K; rows are sorted by expert and multiplied group by group. Those of other
    shards come last, in no group: what a grouped product leaves there is undefined, forward and backward. Rows are
    weighted before `down`: so its result is not needed again for the gradient of the weights.
    """
    count, active = len(matrices["up"]), chosen_MK.shape[1]
    expert_R = chosen_MK.reshape(-1) - first
    expert_R = jnp.where((expert_R >= 0) & (expert_R < count), expert_R, count)
    order_R = jnp.argsort(expert_R)
    back_R = jnp.argsort(order_R)
    mine_R1 = (expert_R[order_R] < count)[:, None]
    sizes_E = (expert_R[:, None] == jnp.arange(count)).sum(0, dtype=jnp.int32)
    rows_RD = jnp.where(mine_R1, permuted(jnp.repeat(x_MD, active, axis=0), order_R, back_R), 0)
    weight_R1 = jnp.where(mine_R1, permuted(weight_MK.reshape(-1, 1), order_R, back_R), 0)
    up_RF = checkpoint_name(jax.lax.ragged_dot(rows_RD, matrices["up"], sizes_E), "up")
    if "gate" in matrices:
        gate_RF = checkpoint_name(jax.lax.ragged_dot(rows_RD, matrices["gate"], sizes_E), "gate")
        hidden_RF = ACTIVATIONS[activation](gate_RF) * up_RF
    else:
        hidden_RF = ACTIVATIONS[activation](up_RF)
    hidden_RF = (hidden_RF * weight_R1).astype(x_MD.dtype)
    out_RD = jnp.where(mine_R1, jax.lax.ragged_dot(hidden_RF, matrices["down"], sizes_E), 0)
    out_MKD = permuted(out_RD, back_R, order_R).reshape(*chosen_MK.shape, -1)
    return precise(out_MKD).sum(1).astype(x_MD.dtype)


@jax.custom_vjp
def permuted(x_RD: jax.Array, order_R: jax.Array, back_R: jax.Array) -> jax.Array:
    """x[order], whose gradient is read in the order `back` instead of being scattered, row by row, into zeros."""
    return x_RD[order_R]


permuted.defvjp(
    lambda x_RD, order_R, back_R: (x_RD[order_R], back_R),
    lambda back_R, gradient_RD: (gradient_RD[back_R], None, None),
)
