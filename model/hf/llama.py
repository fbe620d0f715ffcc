"""Llama 1, 2 and 3 (Touvron et al. 2023; Dubey et al. 2024), as transformers' LlamaForCausalLM computes them."""

from __future__ import annotations

from model import config as c
from model.hf import decoder
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Vector
from model.hf.rope import read_rope

DEFAULTS = decoder.DEFAULTS | {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
}
# In how many parts old programs multiplied, and marks that other trainers leave.
INERT = frozenset({"pretraining_tp", "max_sequence_length", "is_llama_config"})
MLP_BIASES = (
    Entry("mlp.gate_proj.bias", "feed_forward.gate_bias", Vector()),
    Entry("mlp.up_proj.bias", "feed_forward.up_bias", Vector()),
    Entry("mlp.down_proj.bias", "feed_forward.down_bias", Vector()),
)


def read(config: ConfigReader) -> c.Model:
    decoder.refuse_ragged_heads(config)
    config.expect("rope_interleaved", False)
    bias = config.flag("attention_bias")
    attention = decoder.read_attention(config, rope=read_rope(config), bias=bias, output_bias=bias)
    norm = decoder.read_norm(config)
    block = c.Block(attention, decoder.read_mlp(config, bias=config.flag("mlp_bias")), norm)
    return decoder.read_model(config, [block] * config.integer("num_hidden_layers"), norm)


def write(model: c.Model) -> dict:
    block = c.blocks(model)[0]
    return decoder.write_model(model) | {"attention_bias": block.mixer.bias, "mlp_bias": block.feed_forward.bias}


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    read=read,
    write=write,
    tables={**decoder.TABLES, c.MLP: decoder.GATED_MLP + MLP_BIASES},
    layer="model.layers.{layer}.",
    prefix="model.",
    defaults=DEFAULTS,
    inert=INERT,
    buffers=("*.rotary_emb.inv_freq",),
)
