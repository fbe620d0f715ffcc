"""Mistral and its mixture of experts, Mixtral (Jiang et al. 2023, 2024), as transformers' MistralForCausalLM and
MixtralForCausalLM compute them."""

from __future__ import annotations

from dataclasses import replace

from model import config as c
from model.hf import decoder
from model.hf.activations import ACTIVATIONS
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Linear, Stacked
from model.hf.rope import read_rope

DEFAULTS = decoder.DEFAULTS | {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
MIXTRAL_DEFAULTS = DEFAULTS | {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
EXPERTS = (
    Entry("block_sparse_moe.gate.weight", "feed_forward.router", Linear()),
    Entry("block_sparse_moe.experts.{expert}.w1.weight", "feed_forward.gate", Stacked(Linear())),
    Entry("block_sparse_moe.experts.{expert}.w3.weight", "feed_forward.up", Stacked(Linear())),
    Entry("block_sparse_moe.experts.{expert}.w2.weight", "feed_forward.down", Stacked(Linear())),
)


def read_mistral(config: ConfigReader) -> c.Model:
    return read_layers(config, decoder.read_mlp(config))


def read_mixtral(config: ConfigReader) -> c.Model:
    config.expect("router_jitter_noise", 0.0)
    return read_layers(config, read_experts(config))


def read_layers(config: ConfigReader, feed_forward: c.MLP | c.MoE) -> c.Model:
    window, norm = config.integer("sliding_window", null=None), decoder.read_norm(config)
    block = c.Block(decoder.read_attention(config, rope=read_rope(config), window=window), feed_forward, norm)
    return decoder.read_model(config, [block] * config.integer("num_hidden_layers"), norm)


def read_experts(config: ConfigReader) -> c.MoE:
    experts, active = config.integer("num_local_experts"), config.integer("num_experts_per_tok")
    if active > experts:
        config.refuse(f"num_experts_per_tok={active} is more than num_local_experts={experts}")
    width, activation = config.integer("intermediate_size"), config.choice("hidden_act", ACTIVATIONS)
    coefficient, in_loss = config.number("router_aux_loss_coef"), config.flag("output_router_logits")
    weight = coefficient * balance_ratio(active, config.integer("num_hidden_layers")) if in_loss else 0.0
    return c.MoE(experts, active, width, activation, balance_loss=weight)


def balance_ratio(active: int, layers: int) -> float:
    """Our weight of the balance loss for one of theirs. Their loss counts each of a token's `active` choices whole and
    is one for all layers, of means over all layers and rows; ours is a sum over layers, each row by itself. Equal for
    one layer and one row, and where the load is alike everywhere."""
    return active / layers


def write_mistral(model: c.Model) -> dict:
    return decoder.write_model(model) | {"sliding_window": c.blocks(model)[0].mixer.window}


def write_mixtral(model: c.Model) -> dict:
    moe, layers = c.blocks(model)[0].feed_forward, len(c.blocks(model))
    return write_mistral(model) | {
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.active,
        "output_router_logits": moe.balance_loss > 0,
        "router_aux_loss_coef": moe.balance_loss / balance_ratio(moe.active, layers),
    }


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    read=read_mistral,
    write=write_mistral,
    tables=decoder.TABLES,
    layer="model.layers.{layer}.",
    prefix="model.",
    defaults=DEFAULTS,
    buffers=("*.rotary_emb.inv_freq",),
)
MIXTRAL = replace(
    MISTRAL,
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    read=read_mixtral,
    write=write_mixtral,
    tables={
        c.Model: decoder.OUTSIDE_LAYERS,
        c.Block: decoder.PRE_NORMS,
        c.Attention: decoder.ATTENTION,
        c.MoE: EXPERTS,
    },
    defaults=MIXTRAL_DEFAULTS,
    aliases={"num_experts": "num_local_experts"},
)
