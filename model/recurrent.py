"""Recurrent mixers of a block in model/transformer.py: they read time in order and remember a state instead of keys and
values."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import config as c
from model.cache import PageLayout
from model.forward_pass import ForwardPass
from model.layers import Initializer, ParameterFactory, add_bias, at_least_float32, constant, project
from model.sharding import ShardingError, shard, shard_count

GATES = ("input", "forget", "candidate", "output")  # along the axis G, in PyTorch's order
PRODUCT_AXES = (None, "batch", None, None)  # of gates [T, B, G, D]: every device of `tensor` computes all features


class LSTMState(NamedTuple):
    """What an LSTM remembers of the tokens before, [B, D] each, in float32 at least."""

    hidden: jax.Array
    cell: jax.Array


class LSTM(nnx.Module):
    """Weights input and recurrent [D, G, D] and bias [G, D], where G are the four gates."""

    def __init__(self, config: c.LSTM, width: int, declare: ParameterFactory):
        self.config, self.width = config, width
        axes, shape = ("width", "gates", "features"), (width, len(GATES), width)
        self.input, self.recurrent = declare.weight(axes, shape), declare.weight(axes, shape)
        self.bias = declare(axes[1:], shape[1:], gate_biases(config.forget_bias))

    def __call__(self, x_BTD: jax.Array, forward_pass: ForwardPass, state: LSTMState | None):
        """[B, T, D] -> [B, T, D], and the state after each row's last real token (None stays None).

        Raises ShardingError where the mesh splits time."""
        if shard_count("time") > 1:
            raise ShardingError(
                f"mesh: context={shard_count('time')} splits time, which an LSTM reads in order; set mesh.context=1"
            )
        x_TBD = jnp.swapaxes(x_BTD, 0, 1)
        # The inputs' part of all gates is one large product, so that each step is left with the state's alone.
        gates_TBGD = add_bias(project("TBD,DGO->TBGO", x_TBD, self.input, *PRODUCT_AXES), self.bias)
        is_start_TB1 = jnp.swapaxes(forward_pass.is_document_start(), 0, 1)
        if state is None:
            hidden_TBD = read(self.recurrent, gates_TBGD, is_start_TB1)
        else:
            is_real_TB1 = (jnp.arange(x_BTD.shape[1])[:, None] < forward_pass.slots.count_B)[..., None]
            state, (_, hidden_TBD) = continue_from(state, self.recurrent, gates_TBGD, is_start_TB1, is_real_TB1)
        return jnp.swapaxes(hidden_TBD, 0, 1).astype(x_BTD.dtype), state

    def memory(self, rows: int, slots: int, dtype: jnp.dtype, pages: PageLayout | None = None) -> LSTMState:
        """The state before the first token of `rows` sequences, however long they are: it lies in no pages."""
        del slots, pages
        return zero_state(rows, self.width, dtype)


def zero_state(rows: int, width: int, dtype: jnp.dtype) -> LSTMState:
    zeros_BD = shard(jnp.zeros((rows, width), jnp.promote_types(dtype, jnp.float32)), "batch", None)
    return LSTMState(zeros_BD, zeros_BD)


def step(state: LSTMState, recurrent: nnx.Param, gates_BGD, is_start_B1) -> tuple[LSTMState, jax.Array]:
    """Reads one token of each row, whose input's part of the gates is given. Also returns the whole gates [B, G, D],
    before their activation."""
    state = jax.tree.map(lambda x_BD: jnp.where(is_start_B1, 0, x_BD), state)
    gates_BGD += state_product(state.hidden.astype(gates_BGD.dtype), recurrent)
    return update(gates_BGD, state.cell), gates_BGD


def state_product(hidden_BD: jax.Array, recurrent: nnx.Param) -> jax.Array:
    """The state's part of the gates [B, G, D]."""
    return project("BD,DGO->BGO", hidden_BD, recurrent, *PRODUCT_AXES[1:])


def update(gates_BGD: jax.Array, cell_BD: jax.Array) -> LSTMState:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, in float32 at least."""
    gates_BGD = at_least_float32(gates_BGD)
    input_BD, forget_BD, candidate_BD, output_BD = (gates_BGD[:, i] for i in range(len(GATES)))
    cell_BD = jax.nn.sigmoid(forget_BD) * cell_BD + jax.nn.sigmoid(input_BD) * jnp.tanh(candidate_BD)
    return LSTMState(jax.nn.sigmoid(output_BD) * jnp.tanh(cell_BD), cell_BD)


def continue_from(state: LSTMState, recurrent: nnx.Param, gates_TBGD, is_start_TB1, is_real_TB1):
    """Reads tokens from a state on: the state after each row's last real token, and of all tokens the gates
    [T, B, G, D] and the hidden states [T, B, D]."""

    def read_token(state, token):
        gates_BGD, is_start_B1, is_real_B1 = token
        new, gates_BGD = step(state, recurrent, gates_BGD, is_start_B1)
        return jax.tree.map(lambda new, old: jnp.where(is_real_B1, new, old), new, state), (gates_BGD, new.hidden)

    return jax.lax.scan(read_token, state, (gates_TBGD, is_start_TB1, is_real_TB1))


@jax.custom_vjp
def read(recurrent: nnx.Param, gates_TBGD: jax.Array, is_start_TB1: jax.Array) -> jax.Array:
    """The hidden states [T, B, D] of whole rows, for training.

    Left to itself, JAX would add up the weight's gradient token after token, in the weight's number format. Here the
    backward pass keeps the gates' gradients, and the weight's is one large product of them at the end: faster, and
    exact in bfloat16 too.
    """
    return read_forward(recurrent, gates_TBGD, is_start_TB1)[0]


def read_forward(recurrent, gates_TBGD, is_start_TB1):
    first = zero_state(*gates_TBGD.shape[1::2], gates_TBGD.dtype)

    def read_token(state, token):
        new, gates_BGD = step(state, recurrent, *token)
        return new, (new, gates_BGD)

    _, (states, gates_TBGD) = jax.lax.scan(read_token, first, (gates_TBGD, is_start_TB1))
    states, gates_TBGD = checkpoint_name(states, "state"), checkpoint_name(gates_TBGD, "gates")
    return states.hidden, (recurrent, gates_TBGD, is_start_TB1, states)


def read_backward(residuals, hidden_gradient_TBD):
    """Backpropagation through time (Werbos 1990)."""
    recurrent, gates_TBGD, is_start_TB1, states = residuals
    before = jax.tree.map(lambda x_TBD: jnp.where(is_start_TB1, 0, jnp.roll(x_TBD, 1, 0).at[0].set(0)), states)
    before_TBD = before.hidden.astype(gates_TBGD.dtype)

    def unread_token(gradient, token):
        hidden_gradient_BD, gates_BGD, is_start_B1, before_BD, cell_BD = token
        gradient = gradient._replace(hidden=gradient.hidden + hidden_gradient_BD)
        gates_gradient_BGD, cell_gradient_BD = jax.vjp(update, gates_BGD, cell_BD)[1](gradient)
        (before_gradient_BD,) = jax.vjp(lambda x: state_product(x, recurrent), before_BD)[1](gates_gradient_BGD)
        gradient = LSTMState(before_gradient_BD.astype(cell_gradient_BD.dtype), cell_gradient_BD)
        return jax.tree.map(lambda x_BD: jnp.where(is_start_B1, 0, x_BD), gradient), gates_gradient_BGD

    last = zero_state(*gates_TBGD.shape[1::2], gates_TBGD.dtype)
    tokens = (hidden_gradient_TBD, gates_TBGD, is_start_TB1, before_TBD, before.cell)
    _, gates_gradient_TBGD = jax.lax.scan(unread_token, last, tokens, reverse=True)
    product = lambda recurrent: project("TBD,DGO->TBGO", before_TBD, recurrent, *PRODUCT_AXES)  # noqa: E731
    (recurrent_gradient,) = jax.vjp(product, recurrent)[1](gates_gradient_TBGD)
    return recurrent_gradient, gates_gradient_TBGD, None


read.defvjp(read_forward, read_backward)


def gate_biases(forget: float) -> Initializer:
    """An initializer of the gates' biases [.., G, D]: zeros, but `forget` for the forget gate (Jozefowicz et al.
    2015)."""

    def init(key, shape, sharding):
        return constant(0.0)(key, shape, sharding).at[..., GATES.index("forget"), :].set(forget)

    return init
