"""Gemma 2 and the text models of Gemma 3 (Gemma Team 2024, 2025), as transformers' Gemma2ForCausalLM and
Gemma3ForCausalLM compute them."""

from __future__ import annotations

from dataclasses import replace

from model import config as c
from model.hf import decoder
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Vector
from model.hf.rope import agreed, parameter_defaults, read_rope, write_parameters, write_rope
from model.hf.windows import FULL, SLIDING, read_windows, write_windows

DEFAULTS = decoder.DEFAULTS | {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}
GEMMA2_DEFAULTS = DEFAULTS | {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
GEMMA3_DEFAULTS = DEFAULTS | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
    "final_logit_softcapping": None,
}
INERT = frozenset({"hidden_act"})  # the same under an older name, which their code does not read
GEMMA3_INERT = INERT | {"_sliding_window_pattern"}
SANDWICH_NORMS = (
    Entry("input_layernorm.weight", "mixer_norm.scale", Vector()),
    Entry("post_attention_layernorm.weight", "mixer_post_norm.scale", Vector()),
    Entry("pre_feedforward_layernorm.weight", "feed_forward_norm.scale", Vector()),
    Entry("post_feedforward_layernorm.weight", "feed_forward_post_norm.scale", Vector()),
)


def read_gemma2(config: ConfigReader) -> c.Model:
    cap = config.number("attn_logit_softcapping", null=None)
    attention = read_attention(config, rope=read_rope(config), score_cap=cap)
    window = config.integer("sliding_window", null=None)
    config.expect("sliding_window_size", window)  # a second name in old files, which their code does not read
    windows = read_windows(config, window, lambda number: number % 2 == 0)
    return read_layers(config, [replace(attention, window=window) for window in windows])


def read_gemma3(config: ConfigReader) -> c.Model:
    config.expect("attn_logit_softcapping", None)  # a key that their attention does not read
    attention = read_attention(config, query_key_norm=decoder.read_norm(config, offset=1.0))
    period, window = config.integer("sliding_window_pattern"), config.integer("sliding_window", null=None)
    windows = read_windows(config, window, lambda number: (number + 1) % period != 0)
    full, sliding = read_ropes(config)
    mixers = [replace(attention, window=window, rope=sliding if window else full) for window in windows]
    return read_layers(config, mixers)


def read_ropes(config: ConfigReader) -> tuple[c.Rope, c.Rope]:
    """The rotary positions of layers that attend to all tokens, and of those that have a window."""
    by_kind = config.object("rope_parameters")
    defaults = parameter_defaults(config, "rope_theta")
    scaling = config.object("rope_scaling", defaults)
    if "type" in scaling.given and "rope_type" not in scaling.given:  # transformers would take it for no scaling
        scaling.refuse("Gemma 3 needs its type under the key rope_type")
    full = agreed(by_kind.object(FULL, defaults), scaling)
    sliding = agreed(by_kind.object(SLIDING, parameter_defaults(config, "rope_local_base_freq")))
    by_kind.refuse_unread()
    for rope in (full, sliding):
        if isinstance(rope.scaling, c.YarnScaling) and not rope.scaling.truncate:  # transformers would truncate
            config.refuse("truncate=False is not built for rotary positions by kind of layer, only True is")
    return full, sliding


def read_attention(config: ConfigReader, **fields) -> c.Attention:
    decoder.refuse_ragged_heads(config)
    config.expect("use_bidirectional_attention", False)
    bias, scale = config.flag("attention_bias"), config.integer("query_pre_attn_scalar") ** -0.5
    return decoder.read_attention(config, bias=bias, output_bias=bias, score_scale=scale, **fields)


def read_layers(config: ConfigReader, mixers: list[c.Attention]) -> c.Model:
    norm, mlp = decoder.read_norm(config, offset=1.0), decoder.read_mlp(config, "hidden_activation")
    return decoder.read_model(
        config,
        [c.Block(mixer, mlp, norm, "sandwich") for mixer in mixers],
        norm,
        embedding_scale=config.integer("hidden_size") ** 0.5,
        logit_cap=config.number("final_logit_softcapping", null=None),
    )


def write_gemma2(model: c.Model) -> dict:
    return write_layers(model) | {"attn_logit_softcapping": c.blocks(model)[0].mixer.score_cap}


def write_gemma3(model: c.Model) -> dict:
    mixers = [block.mixer for block in c.blocks(model)]
    full, sliding = (next((m.rope for m in mixers if bool(m.window) is window), c.Rope()) for window in (False, True))
    by_kind = {FULL: write_parameters(full), SLIDING: write_parameters(sliding)}
    keys = write_layers(model) | write_rope(full)
    return keys | {"rope_parameters": by_kind, "rope_local_base_freq": sliding.base}


def write_layers(model: c.Model) -> dict:
    mixer, keys = c.blocks(model)[0].mixer, decoder.write_model(model) | write_windows(model)
    scale = mixer.head_width**-0.5 if mixer.score_scale is None else mixer.score_scale
    return keys | {
        "hidden_activation": keys["hidden_act"],
        "attention_bias": mixer.bias,
        "query_pre_attn_scalar": round(scale**-2),
        "final_logit_softcapping": model.logit_cap,
    }


GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    read=read_gemma2,
    write=write_gemma2,
    tables={**decoder.TABLES, c.Block: SANDWICH_NORMS},
    layer="model.layers.{layer}.",
    prefix="model.",
    defaults=GEMMA2_DEFAULTS,
    inert=INERT,
)
GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=read_gemma3,
    write=write_gemma3,
    tables={**GEMMA2.tables, c.Attention: decoder.ATTENTION + decoder.QUERY_KEY_NORMS},
    defaults=GEMMA3_DEFAULTS,
    inert=GEMMA3_INERT,
)
