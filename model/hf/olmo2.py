"""OLMo 2 (OLMo Team 2025), as transformers' Olmo2ForCausalLM computes it: norms behind the branches, and of query and
key over all heads."""

from __future__ import annotations

from model import config as c
from model.hf import decoder
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Vector
from model.hf.rope import read_rope

DEFAULTS = decoder.DEFAULTS | {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
}
POST_BRANCH_NORMS = (
    Entry("post_attention_layernorm.weight", "mixer_post_norm.scale", Vector()),
    Entry("post_feedforward_layernorm.weight", "feed_forward_post_norm.scale", Vector()),
)


def read(config: ConfigReader) -> c.Model:
    bias, norm = config.flag("attention_bias"), decoder.read_norm(config)
    norms = {"query_key_norm": norm, "query_key_norm_over": "heads"}
    attention = decoder.read_attention(config, rope=read_rope(config), bias=bias, output_bias=bias, **norms)
    block = c.Block(attention, decoder.read_mlp(config), norm, "post_branch")
    return decoder.read_model(config, [block] * config.integer("num_hidden_layers"), norm)


def write(model: c.Model) -> dict:
    return decoder.write_model(model) | {"attention_bias": c.blocks(model)[0].mixer.bias}


OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    read=read,
    write=write,
    tables={
        **decoder.TABLES,
        c.Block: POST_BRANCH_NORMS,
        c.Attention: decoder.ATTENTION + decoder.QUERY_KEY_NORMS,
    },
    layer="model.layers.{layer}.",
    prefix="model.",
    defaults=DEFAULTS,
)
