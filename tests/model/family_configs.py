"""The config spaces of Hugging Face's families, small: strategies that draw a config.json, in the old or the new
spelling. The simplest example of each comes first and is no dull one. tests/model/test_parity.py draws from them."""

from hypothesis import strategies as st

VOCAB, LENGTH = 61, 40
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def gpt2(draw) -> dict:
    heads, head_width = draw(st.sampled_from([(4, 6), (1, 16), (3, 5), (2, 8)]))
    return {
        "n_embd": heads * head_width,
        "n_head": heads,
        "n_layer": draw(st.sampled_from([2, 1, 3])),
        "n_positions": draw(st.sampled_from([LENGTH, 64])),
        "n_inner": draw(st.sampled_from([None, 21])),
        "activation_function": draw(st.sampled_from(["gelu_new", "relu", "silu", "gelu", "tanh", "gelu_fast"])),
        "scale_attn_weights": draw(st.sampled_from([True, False])),
        "scale_attn_by_inverse_layer_idx": draw(st.sampled_from([True, False])),
        "tie_word_embeddings": draw(st.sampled_from([True, False])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-3])),
    }


def decoder(draw, layers=(2, 1, 3)) -> dict:
    """What all families after Llama have."""
    heads, kv_heads = draw(st.sampled_from([(4, 2), (3, 1), (3, 3), (6, 3)]))
    return {
        "hidden_size": heads * draw(st.sampled_from([6, 4, 5])),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw(st.sampled_from([21, 32])),
        "num_hidden_layers": draw(st.sampled_from(layers)),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": draw(st.sampled_from([LENGTH, 16, 64])),
    }


def head_width(draw, config: dict) -> dict:
    """Heads of another width than width / heads, or of that one if it is even."""
    odd = config["hidden_size"] // config["num_attention_heads"] % 2
    return {"head_dim": draw(st.sampled_from([8, 10]))} if odd or draw(st.sampled_from([True, False])) else {}


def rope(draw) -> dict:
    """Rotary positions, spelled in one of three ways."""
    theta = draw(st.sampled_from([500_000.0, 10_000.0, 300.0]))
    context = {"original_max_position_embeddings": draw(st.sampled_from([16, 32]))}
    scaling = draw(st.sampled_from(["llama3", "yarn", "linear", "default"]))
    factors = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    chosen = {
        "llama3": context | factors | {"factor": draw(st.sampled_from([8.0, 2.0]))},
        "yarn": context | {"factor": draw(st.sampled_from([4.0, 2.0]))} | draw(yarn_options),
        "linear": {"factor": draw(st.sampled_from([2.0, 3.5]))},
        "default": {},
    }[scaling]
    kind = draw(st.sampled_from(["rope_type", "type"]))
    if draw(st.sampled_from(["new", "old"])) == "new":
        return {"rope_parameters": {"rope_theta": theta, "rope_type": scaling, **chosen}}
    return {"rope_theta": theta, "rope_scaling": {kind: scaling, **chosen} if chosen else None}


yarn_options = st.sampled_from([
    {},
    {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0},
    {"truncate": False, "beta_fast": 8},
])  # fmt: skip


def llama(draw) -> dict:
    config = decoder(draw)
    biases = {"attention_bias": draw(st.sampled_from([True, False])), "mlp_bias": draw(st.sampled_from([True, False]))}
    return config | head_width(draw, config) | rope(draw) | biases


def qwen2(draw) -> dict:
    config = decoder(draw, layers=(2, 3, 4))
    return config | head_width(draw, config) | rope(draw) | qwen_windows(draw, config["num_hidden_layers"])


def qwen3(draw) -> dict:
    config = decoder(draw, layers=(2, 3, 4))
    windows = qwen_windows(draw, config["num_hidden_layers"])
    head_dim = {"head_dim": draw(st.sampled_from([8, 10]))}
    return config | head_dim | rope(draw) | windows | {"attention_bias": draw(st.booleans())}


def qwen_windows(draw, layers: int) -> dict:
    keys = {"use_sliding_window": draw(st.sampled_from([True, False])), "sliding_window": draw(st.integers(5, 12))}
    keys["max_window_layers"] = draw(st.sampled_from([1, 0, 28]))
    kinds = ["sliding_attention", "full_attention"]
    listed = keys["use_sliding_window"] and draw(st.booleans())
    return keys | ({"layer_types": [kinds[i % 2] for i in range(layers)]} if listed else {})


def mistral(draw) -> dict:
    """No window of 1: with that, the cache of transformers 5.24 keeps all tokens, its whole rows don't."""
    config = decoder(draw)
    return config | head_width(draw, config) | rope(draw) | {"sliding_window": draw(st.sampled_from([7, 2, None, 64]))}


def mixtral(draw) -> dict:
    """Never without head_dim: transformers 5.24 can't scale rotary positions then."""
    experts, active = draw(st.sampled_from([(4, 2), (3, 1), (5, 3), (2, 2)]))
    return {"head_dim": 8} | mistral(draw) | {"num_local_experts": experts, "num_experts_per_tok": active}


def gemma(draw) -> dict:
    config = decoder(draw, layers=(2, 3, 4))
    config["hidden_activation"] = draw(st.sampled_from(["gelu_pytorch_tanh", "gelu"]))
    del config["hidden_act"]
    if draw(st.sampled_from([True, False])):
        del config["tie_word_embeddings"]
    return config | {
        "head_dim": draw(st.sampled_from([8, 10])),
        "query_pre_attn_scalar": draw(st.sampled_from([13, 8, 256])),
        "attention_bias": draw(st.booleans()),
        "sliding_window": draw(st.integers(5, 12)),
    }


def gemma2(draw) -> dict:
    caps = {"attn_logit_softcapping": draw(st.sampled_from([2.0, None, 50.0]))}
    caps["final_logit_softcapping"] = draw(st.sampled_from([5.0, None, 30.0]))
    return gemma(draw) | rope(draw) | caps


def gemma3(draw) -> dict:
    config = gemma(draw) | {"final_logit_softcapping": draw(st.sampled_from([5.0, None]))}
    pattern = {"sliding_window_pattern": draw(st.sampled_from([2, 3]))}
    local = draw(st.sampled_from([100.0, 10_000.0]))
    spelled = rope(draw)
    for scaling in (spelled.get("rope_parameters"), spelled.get("rope_scaling")):
        if scaling:
            scaling.pop("truncate", None)  # their code does not read it here
    if "rope_parameters" in spelled:
        kinds = {"full_attention": spelled["rope_parameters"]}
        return config | pattern | {"rope_parameters": kinds | {"sliding_attention": {"rope_theta": local}}}
    if spelled["rope_scaling"]:
        scaling = spelled["rope_scaling"]
        scaling.setdefault("rope_type", scaling.pop("type", None))
    return config | pattern | spelled | {"rope_local_base_freq": local}


def olmo2(draw) -> dict:
    config = decoder(draw)
    return config | head_width(draw, config) | rope(draw) | {"attention_bias": draw(st.booleans())}


def space(model_type: str, draw_config):
    return st.composite(lambda draw: {"model_type": model_type, "vocab_size": VOCAB, **ENDS, **draw_config(draw)})()


SPACES = {
    "gpt2": space("gpt2", gpt2),
    "llama": space("llama", llama),
    "qwen2": space("qwen2", qwen2),
    "qwen3": space("qwen3", qwen3),
    "mistral": space("mistral", mistral),
    "gemma2": space("gemma2", gemma2),
    "gemma3_text": space("gemma3_text", gemma3),
    "olmo2": space("olmo2", olmo2),
    "mixtral": space("mixtral", mixtral),
}
