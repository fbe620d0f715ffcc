"""What the families that follow Llama share: keys of their configs and name tables of their parts, to be composed.

A family takes from here what it has in common with the others; what it alone has stands in its own file.
"""

from __future__ import annotations

from collections.abc import Sequence

from model import config as c
from model.hf.activations import ACTIVATIONS, activation_name
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry
from model.hf.layouts import Linear, Matrix, Vector
from model.hf.rope import write_rope
from model.hf.stacks import as_stacks

DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "rope_theta": 10_000.0,
}
OUTSIDE_LAYERS = (
    Entry("model.embed_tokens.weight", "embedding.table", Matrix()),
    Entry("model.norm.weight", "final_norm.scale", Vector()),
    Entry("lm_head.weight", "output", Linear()),
)
PRE_NORMS = (
    Entry("input_layernorm.weight", "mixer_norm.scale", Vector()),
    Entry("post_attention_layernorm.weight", "feed_forward_norm.scale", Vector()),
)
ATTENTION = (
    Entry("self_attn.q_proj.weight", "mixer.query", Linear()),
    Entry("self_attn.k_proj.weight", "mixer.key", Linear()),
    Entry("self_attn.v_proj.weight", "mixer.value", Linear()),
    Entry("self_attn.o_proj.weight", "mixer.output", Linear(input_axes=2)),
    Entry("self_attn.q_proj.bias", "mixer.query_bias", Vector()),
    Entry("self_attn.k_proj.bias", "mixer.key_bias", Vector()),
    Entry("self_attn.v_proj.bias", "mixer.value_bias", Vector()),
    Entry("self_attn.o_proj.bias", "mixer.output_bias", Vector()),
)
QUERY_KEY_NORMS = (
    Entry("self_attn.q_norm.weight", "mixer.query_norm.scale", Vector()),
    Entry("self_attn.k_norm.weight", "mixer.key_norm.scale", Vector()),
)
GATED_MLP = (
    Entry("mlp.gate_proj.weight", "feed_forward.gate", Linear()),
    Entry("mlp.up_proj.weight", "feed_forward.up", Linear()),
    Entry("mlp.down_proj.weight", "feed_forward.down", Linear()),
)

# The tables of a family with Llama's parts; others exchange some.
TABLES = {c.Model: OUTSIDE_LAYERS, c.Block: PRE_NORMS, c.Attention: ATTENTION, c.MLP: GATED_MLP}


def read_attention(config: ConfigReader, **fields) -> c.Attention:
    """Attention with the config's heads and dropout, and these fields of the family's own."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", null=heads)
    if heads % kv_heads:
        config.refuse(f"num_attention_heads={heads} is no multiple of num_key_value_heads={kv_heads}")
    head_width = config.integer("head_dim", null=width // heads)
    if head_width % 2 or not head_width:
        config.refuse(f"rotary positions need heads of an even width, not {head_width}")
    return c.Attention(heads, kv_heads, head_width, dropout=config.number("attention_dropout", null=0.0), **fields)


def refuse_ragged_heads(config: ConfigReader) -> None:
    """Raises HuggingFaceError where the heads don't divide the width, in the families whose own code refuses that."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if width % heads:
        config.refuse(f"hidden_size={width} is no multiple of num_attention_heads={heads}")


def read_norm(config: ConfigReader, offset: float = 0.0) -> c.Norm:
    return c.Norm("rms", epsilon=config.number("rms_norm_eps"), offset=offset)


def read_mlp(config: ConfigReader, activation: str = "hidden_act", bias: bool = False) -> c.MLP:
    """The gated feed-forward. `activation`: the key that names it."""
    name = config.choice(activation, ACTIVATIONS)
    return c.MLP(config.integer("intermediate_size"), name, gated=True, bias=bias, gate_bias=bias)


def read_model(config: ConfigReader, blocks: Sequence[c.Block], norm: c.Norm, **fields) -> c.Model:
    """A model of these layers, without positions of its own."""
    return c.Model(
        vocab_size=config.integer("vocab_size"),
        width=config.integer("hidden_size"),
        context=config.integer("max_position_embeddings"),
        layers=as_stacks(blocks),
        final_norm=norm,
        tied=config.flag("tie_word_embeddings"),
        **fields,
    )


def write_model(model: c.Model) -> dict:
    """The keys that all of these families have, from the model and its first layer."""
    blocks = c.blocks(model)
    mixer = blocks[0].mixer
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.width,
        "intermediate_size": blocks[0].feed_forward.width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.head_width,
        "hidden_act": activation_name(blocks[0].feed_forward.activation),
        "max_position_embeddings": model.context,
        "rms_norm_eps": blocks[0].norm.epsilon,
        "tie_word_embeddings": model.tied,
        "attention_dropout": mixer.dropout,
        **write_rope(mixer.rope),
    }
