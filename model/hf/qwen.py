"""Qwen2 and Qwen3 (Yang et al. 2024, 2025), as transformers' Qwen2ForCausalLM and Qwen3ForCausalLM compute them."""

from __future__ import annotations

from dataclasses import replace

from model import config as c
from model.hf import decoder
from model.hf.config_reader import ConfigReader
from model.hf.family import Family
from model.hf.rope import read_rope
from model.hf.windows import read_windows, write_windows

DEFAULTS = decoder.DEFAULTS | {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}


def read_qwen2(config: ConfigReader) -> c.Model:
    return read_layers(config, decoder.read_attention(config, rope=read_rope(config), bias=True))


def read_qwen3(config: ConfigReader) -> c.Model:
    bias, norm = config.flag("attention_bias"), decoder.read_norm(config)
    rope = read_rope(config)
    return read_layers(
        config, decoder.read_attention(config, rope=rope, bias=bias, output_bias=bias, query_key_norm=norm)
    )


def read_layers(config: ConfigReader, attention: c.Attention) -> c.Model:
    """A model whose layers from `max_window_layers` on have windows, if any have."""
    config.expect("use_mrope", False)
    norm, mlp = decoder.read_norm(config), decoder.read_mlp(config)
    window = config.integer("sliding_window", null=None)
    first = config.integer("max_window_layers", least=0)
    window = window if config.flag("use_sliding_window") else None
    windows = read_windows(config, window, lambda number: window is not None and number >= first)
    return decoder.read_model(config, [c.Block(replace(attention, window=w), mlp, norm) for w in windows], norm)


def write_qwen2(model: c.Model) -> dict:
    keys = decoder.write_model(model) | write_windows(model)
    windows = [block.mixer.window for block in c.blocks(model)]
    first = next((number for number, window in enumerate(windows) if window), len(windows))
    return keys | {"use_sliding_window": any(windows), "max_window_layers": first}


def write_qwen3(model: c.Model) -> dict:
    return write_qwen2(model) | {"attention_bias": c.blocks(model)[0].mixer.bias}


QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    read=read_qwen2,
    write=write_qwen2,
    tables=decoder.TABLES,
    layer="model.layers.{layer}.",
    prefix="model.",
    defaults=DEFAULTS,
)
QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    read=read_qwen3,
    write=write_qwen3,
    tables={**QWEN2.tables, c.Attention: decoder.ATTENTION + decoder.QUERY_KEY_NORMS},
    defaults=DEFAULTS | {"head_dim": 128, "attention_bias": False},
)
