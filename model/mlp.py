"""The feed-forward of a block, plain or gated (Vaswani et al. 2017, 3.3; Shazeer 2020).

model/transformer.py builds it; model/moe.py too, as the expert that all tokens share.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import config as c
from model.forward_pass import ForwardPass
from model.layers import ParameterFactory, add_bias, project

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),  # jax.nn.gelu uses erfc: five times the work
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021 (Primer)
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class MLP(nnx.Module):
    """Weights up and gate [D, F], down [F, D]."""

    def __init__(self, config: c.MLP, width: int, declare: ParameterFactory):
        self.config = config
        up_axes, down_axes = ("width", "feed_forward"), ("feed_forward", "width")
        self.up = declare.weight(up_axes, (width, config.width))
        self.gate = declare.weight(up_axes, (width, config.width)) if config.gated else None
        self.down = declare.residual(down_axes, (config.width, width))
        self.up_bias = declare.zeros(("feed_forward",), (config.width,)) if config.bias else None
        has_gate_bias = config.gated and config.gate_bias
        self.gate_bias = declare.zeros(("feed_forward",), (config.width,)) if has_gate_bias else None
        self.down_bias = declare.zeros(("features",), (width,)) if config.bias else None

    def __call__(self, x_BTD: jax.Array, forward_pass: ForwardPass) -> tuple[jax.Array, float]:
        """[B, T, D] -> [B, T, D], and the auxiliary loss, which is 0."""
        del forward_pass
        up_BTF = project("BTD,DF->BTF", x_BTD, self.up, "batch", "time", "feed_forward")
        up_BTF = checkpoint_name(add_bias(up_BTF, self.up_bias), "up")
        activation = ACTIVATIONS[self.config.activation]
        if self.gate is None:
            hidden_BTF = activation(up_BTF)
        else:
            gate_BTF = project("BTD,DF->BTF", x_BTD, self.gate, "batch", "time", "feed_forward")
            gate_BTF = checkpoint_name(add_bias(gate_BTF, self.gate_bias), "gate")
            hidden_BTF = activation(gate_BTF) * up_BTF
        out_BTD = project("BTF,FD->BTD", hidden_BTF, self.down, "batch", "time", None)
        return add_bias(out_BTD, self.down_bias), 0.0
