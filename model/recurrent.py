"""Recurrent mixers of a block in model/transformer.py: they read time in order and remember a state instead of keys and
values."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model import config as c
from model.forward_pass import ForwardPass
from model.layers import ParameterFactory, at_least_float32, constant, einsum, project
from model.sharding import ShardingError, shard, shard_count

GATES = 4  # input, forget, candidate, output: PyTorch's order


class LSTMState(NamedTuple):
    """What an LSTM remembers of the tokens before, float32 [B, D] each."""

    hidden: jax.Array
    cell: jax.Array


class LSTM(nnx.Module):
    """Weights input and recurrent [D, 4, D], bias [4, D]; the axis of 4 is the gates'."""

    def __init__(self, config: c.LSTM, width: int, declare: ParameterFactory):
        self.config, self.width = config, width
        axes, shape = ("width", "gates", "features"), (width, GATES, width)
        self.input, self.recurrent = declare.weight(axes, shape), declare.weight(axes, shape)
        self.bias = declare(axes[1:], shape[1:], forget_bias(config.forget_bias))

    def __call__(self, x_BTD: jax.Array, forward_pass: ForwardPass, state: LSTMState | None):
        """[B, T, D] -> [B, T, D], and the state after each row's last real token (None stays None).

        Raises ShardingError where the mesh splits time."""
        if shard_count("time") > 1:
            raise ShardingError(
                f"mesh: context={shard_count('time')} splits time, which an LSTM reads in order; set mesh.context=1"
            )
        rows, length, _ = x_BTD.shape
        gates_BTGD = project("BTD,DGO->BTGO", x_BTD, self.input, "batch", "time", None, None)
        real_BT = jnp.ones((rows, length), bool)
        if forward_pass.count_B is not None:
            real_BT = jnp.arange(length) < forward_pass.count_B[:, None]
        first = self.memory(rows, 0, x_BTD.dtype) if state is None else state
        steps = (gates_BTGD, forward_pass.is_document_start(), shard(real_BT[..., None], "batch", None, None))
        last, hidden_TBD = jax.lax.scan(self.step, first, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), steps))
        return jnp.moveaxis(hidden_TBD, 0, 1).astype(x_BTD.dtype), None if state is None else last

    def step(self, state: LSTMState, inputs) -> tuple[LSTMState, jax.Array]:
        """One token of each row: the state after it, unchanged where it is padding, and its output [B, D]."""
        gates_BGD, is_start_B1, is_real_B1 = inputs
        fresh = jax.tree.map(lambda x_BD: jnp.where(is_start_B1, 0, x_BD), state)
        hidden_BD = fresh.hidden.astype(gates_BGD.dtype)
        gates_BGD = gates_BGD + einsum("BD,DGO->BGO", hidden_BD, self.recurrent[...], "batch", None, None)
        gates_BGD = at_least_float32(gates_BGD) + self.bias[...]
        input_BD, forget_BD, candidate_BD, output_BD = (gates_BGD[:, i] for i in range(GATES))
        cell_BD = jax.nn.sigmoid(forget_BD) * fresh.cell + jax.nn.sigmoid(input_BD) * jnp.tanh(candidate_BD)
        new = LSTMState(jax.nn.sigmoid(output_BD) * jnp.tanh(cell_BD), cell_BD)
        return jax.tree.map(lambda new, old: jnp.where(is_real_B1, new, old), new, state), new.hidden

    def memory(self, rows: int, slots: int, dtype: jnp.dtype) -> LSTMState:
        """The state before the first token of `rows` sequences, however long they are."""
        del slots, dtype
        zeros_BD = shard(jnp.zeros((rows, self.width)), "batch", None)
        return LSTMState(zeros_BD, zeros_BD)


def forget_bias(value: float):
    """An initializer of the gates' biases [.., 4, D]: zeros, but `value` for the forget gate (Jozefowicz et al.
    2015)."""

    def init(key, shape, sharding):
        biases = constant(0.0)(key, shape, sharding)
        return biases.at[..., 1, :].set(value)

    return init
