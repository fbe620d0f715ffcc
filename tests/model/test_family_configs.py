"""Configs of Hugging Face's families, read and written: defaults, old spellings, what is refused and in which words."""

import copy

import numpy as np
import pytest
from family_configs import SPACES
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as c
from model.hf.activations import ACTIVATIONS, activation_name
from model.hf.config_reader import HuggingFaceError
from model.hf.families import FAMILIES, differences, read_config, write_config
from model.positions import rotary_frequencies

SMALL = {"vocab_size": 31, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
LLAMA = {"model_type": "llama", **SMALL}
GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_head": 4, "n_layer": 2}
GEMMA3 = {"model_type": "gemma3_text", **SMALL, "head_dim": 8}


def read(config: dict) -> c.Model:
    return read_config(config)[1]


def blocks(config: dict) -> tuple[c.Block, ...]:
    return c.blocks(read(config))


@settings(deadline=None, database=None)
@given(st.sampled_from(sorted(SPACES)).flatmap(SPACES.get))
def test_what_is_written_of_a_config_that_was_read_computes_the_same(config):
    family, model = read_config(config)
    written_family, written = write_config(model, family.model_type)
    assert written_family is family
    assert not differences(read(written), model)
    assert read(written).context == model.context


@settings(deadline=None, database=None, max_examples=40)
@given(st.sampled_from(sorted(SPACES)).flatmap(SPACES.get))
def test_transformers_takes_what_is_written_for_the_same_model(config):
    transformers = pytest.importorskip("transformers")
    family, model = read_config(config)
    theirs = transformers.AutoConfig.for_model(**write_config(model, family.model_type)[1]).to_dict()
    assert not differences(read(theirs), model)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_without_keys_is_the_family_of_transformers_by_default(model_type):
    transformers = pytest.importorskip("transformers", reason="their own defaults are in transformers")
    theirs = transformers.AutoConfig.for_model(model_type).to_dict()
    told = {key: value for key, value in theirs.items() if key not in ("_sliding_window_pattern", "id2label")}
    told["architectures"] = [FAMILIES[model_type].architecture]
    assert differences(read({"model_type": model_type}), read(told)) == []
    assert read({"model_type": model_type}).dropout == read(told).dropout


def test_old_names_of_keys_are_read():
    old = {"model_type": "gpt2", "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "n_ctx": 1024}
    assert read(old) == read(GPT2)


# What published files hold beside the keys of their family: of gpt2-xl, distilgpt2, the first GPT-2s, Gemma 2 9B,
# SmolLM2's instructed models, and of files that transformers 4.46 to 4.51 and unsloth wrote.
PUBLISHED = [
    GPT2 | {"n_special": 0, "predict_special_tokens": True, "output_past": True},
    GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
    GPT2 | {"finetuning_task": None, "is_decoder": False, "num_labels": 1, "pruned_heads": {}, "use_bfloat16": False},
    {"model_type": "gemma2", **SMALL, "sliding_window": 4096, "sliding_window_size": 4096},
    LLAMA | {"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}},
    LLAMA | {"_attn_implementation_autoset": True, "unsloth_fixed": True, "unsloth_version": "2025.3"},
    LLAMA | {"tokenizer_class": "LlamaTokenizer"},
]


@pytest.mark.parametrize("config", PUBLISHED)
def test_what_published_configs_hold_beside_the_model_is_read_over(config):
    known = {"model_type", "n_embd", "n_head", "n_layer", "sliding_window", *SMALL}
    assert read(config) == read({key: value for key, value in config.items() if key in known})


def test_every_activation_of_ours_has_a_name_of_theirs_that_is_read_back():
    for ours in set(ACTIVATIONS.values()):
        assert ACTIVATIONS[activation_name(ours)] == ours


SCALINGS = {
    "linear": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
}


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_old_and_new_spellings_of_rotary_positions_are_one(kind, key):
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": {key: kind, **SCALINGS[kind]}}
    new = LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": kind, **SCALINGS[kind]}}
    assert read(old) == read(new) == read(old | new)
    assert blocks(old)[0].mixer.rope.base == 5e5


@pytest.mark.parametrize("kind", [*SCALINGS, "default"])
def test_a_reader_of_either_spelling_finds_the_same_rotary_positions_in_what_is_written(kind):
    """transformers of today, with the old keys alone, with the new ones alone, and with all."""
    transformers = pytest.importorskip("transformers")
    model = read(LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": kind, **SCALINGS.get(kind, {})}})
    written = write_config(model, "llama")[1]
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    new = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    for keys in (written, old, new):
        theirs = transformers.AutoConfig.for_model(**copy.deepcopy(keys))
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
        frequency, factor = rotary_frequencies(c.blocks(model)[0].mixer.rope, 6)
        np.testing.assert_allclose(rotary.inv_freq.numpy(), frequency, rtol=1e-6)
        assert rotary.attention_scaling == pytest.approx(factor)


def test_heads_that_are_not_given_are_the_familys_own():
    llama = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert blocks(llama)[0].mixer.kv_heads == 4
    qwen3 = {"model_type": "qwen3", **SMALL, "num_attention_heads": 32}
    del qwen3["num_key_value_heads"]
    assert (blocks(qwen3)[0].mixer.kv_heads, blocks(qwen3)[0].mixer.head_width) == (32, 128)
    assert blocks(qwen3 | {"num_attention_heads": 4, "num_key_value_heads": None})[0].mixer.kv_heads == 4
    assert blocks({"model_type": "gemma2", **SMALL})[0].mixer.head_width == 256
    assert blocks(LLAMA | {"head_dim": None})[0].mixer.head_width == 6


def windows(config: dict) -> list[int | None]:
    return [block.mixer.window for block in blocks(config)]


def test_windows_stand_where_the_family_has_them():
    qwen = {"model_type": "qwen2", **SMALL, "sliding_window": 8, "max_window_layers": 1}
    assert windows(qwen) == [None, None]
    assert windows(qwen | {"use_sliding_window": True}) == [None, 8]
    listed = {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    assert windows(qwen | listed) == [8, None]
    assert windows({"model_type": "mistral", **SMALL}) == [4096, 4096]
    assert windows({"model_type": "mistral", **SMALL, "sliding_window": None}) == [None, None]
    assert windows({"model_type": "mixtral", **SMALL}) == [None, None]
    assert windows({"model_type": "gemma2", **SMALL, "num_hidden_layers": 4}) == [4096, None, 4096, None]
    assert windows(GEMMA3 | {"num_hidden_layers": 7}) == [4096] * 5 + [None, 4096]


def test_gemma_3_has_rotary_positions_by_kind_of_layer():
    old = {"rope_theta": 1e6, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    kinds = {"sliding_attention": {"rope_theta": 100.0, "rope_type": "default"}}
    kinds["full_attention"] = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    config = GEMMA3 | {"sliding_window_pattern": 2}
    assert read(config | old) == read(config | {"rope_parameters": kinds})
    ropes = [block.mixer.rope for block in blocks(config | old)]
    assert ropes == [c.Rope(100.0), c.Rope(1e6, c.LinearScaling(8.0))]


YARN = {"rope_scaling": {"type": "yarn", "factor": 4.0}}
REFUSED = {
    "model_type": ({"model_type": "bloom"}, "model_type='bloom' is not built here; gemma2, "),
    "no model_type": ({}, "no 'model_type'"),
    "unknown key": (LLAMA | {"clip_qkv": 8.0}, "clip_qkv=8.0"),
    "quantized": (LLAMA | {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    "another head": (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM alone"),
    "text for a number": (LLAMA | {"hidden_size": "24"}, "hidden_size must be a whole number, not '24'"),
    "a truth for a number": (LLAMA | {"num_hidden_layers": True}, "num_hidden_layers must be a whole number, not True"),
    "null for a number": (LLAMA | {"rms_norm_eps": None}, "rms_norm_eps must be a number, not None"),
    "nothing": (LLAMA | {"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
    "groups": (LLAMA | {"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
    "odd heads": (LLAMA | {"head_dim": 7}, "heads of an even width, not 7"),
    "ragged heads": (LLAMA | {"hidden_size": 26}, "hidden_size=26 is no multiple of num_attention_heads=4"),
    "GPT-2's heads": (GPT2 | {"n_head": 5}, "n_embd=24 is no multiple of n_head=5"),
    "two names": (GPT2 | {"hidden_size": 32}, "hidden_size=32 and n_embd=24"),
    "cross-attention": (GPT2 | {"add_cross_attention": True}, "add_cross_attention=True"),
    "activation": (LLAMA | {"hidden_act": "mish"}, "hidden_act='mish' is not built here; gelu, "),
    "dynamic": (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type='dynamic'"),
    "longrope": (LLAMA | {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters: rope_type='longrope'"),
    "a scaling's part": (LLAMA | {"rope_scaling": {"type": "linear"}}, "rope_scaling: no 'factor'"),
    "an unknown part": (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale=1.0"),
    "shrinking": (LLAMA | {"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor must be at least 1, not 0.5"),
    "two scalings": (LLAMA | YARN | {"rope_parameters": {"rope_theta": 1e6}}, "something else than rope_scaling"),
    "rope a list": (LLAMA | {"rope_scaling": [1]}, "rope_scaling: must be an object, not [1]"),
    "kinds": (GEMMA3 | {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers=2"),
    "a kind": (GEMMA3 | {"layer_types": ["chunked_attention"] * 2}, "layer_types: 'chunked_attention' is not built"),
    "no window": (GEMMA3 | {"sliding_window": None}, "there is no sliding_window"),
    "untruncated": (
        GEMMA3 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False}}, "truncate=False is not"
    ),
    "an old type": (GEMMA3 | {"rope_scaling": {"type": "linear", "factor": 8.0}}, "type under the key rope_type"),
    "both ways": (GEMMA3 | {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    "a cap": (GEMMA3 | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    "two windows": ({"model_type": "gemma2", **SMALL, "sliding_window_size": 8}, "sliding_window_size=8"),
    "pruned": (GPT2 | {"pruned_heads": {"1": [0]}}, "pruned_heads={'1': [0]}"),
    "experts": ({"model_type": "mixtral", **SMALL, "num_experts_per_tok": 9}, "num_experts_per_tok=9 is more than"),
    "jitter": ({"model_type": "mixtral", **SMALL, "router_jitter_noise": 0.1}, "router_jitter_noise=0.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_built_or_contradicts_itself_is_refused_in_one_line(case):
    config, words = REFUSED[case]
    with pytest.raises(HuggingFaceError) as error:
        read_config(config)
    assert words in str(error.value)
    assert str(error.value).startswith("config.json: ")
    assert "\n" not in str(error.value)


def test_what_no_family_can_say_is_refused_with_the_fields_in_the_way():
    attention = c.Attention(4, 2, 6, c.Rope(), query_key_norm=c.Norm())
    block = c.Block(attention, c.MLP(32, "relu_squared", gated=True), token_shift=0.5)
    with pytest.raises(HuggingFaceError, match=r"Qwen3ForCausalLM .*: layers\.0\.token_shift=0\.5") as error:
        write_config(c.Model(31, 24, 64, (c.Stack((block,), 1),)))
    assert "\n" not in str(error.value)
    lstm = c.Block(c.LSTM(), None, placement="plain")
    with pytest.raises(HuggingFaceError, match=r"layers\.0\.mixer=LSTM"):
        write_config(c.Model(31, 24, 64, (c.Stack((lstm,), 1),)))


def test_what_training_alone_computes_does_not_stand_in_the_way():
    block = c.Block(c.Attention(4, 2, 6, c.Rope(), dropout=0.1), c.MLP(32, gated=True), dropout=0.1)
    family, config = write_config(c.Model(31, 24, 64, (c.Stack((block,), 2),), dropout=0.1, tied=False))
    assert (family.model_type, config["attention_dropout"], config["num_hidden_layers"]) == ("llama", 0.1, 2)


def test_mixtrals_balance_loss_is_ours_for_one_layer_and_one_row():
    config = {"model_type": "mixtral", **SMALL, "num_hidden_layers": 1, "router_aux_loss_coef": 0.02}
    assert blocks(config)[0].feed_forward.balance_loss == 0
    model = read(config | {"output_router_logits": True})
    assert c.blocks(model)[0].feed_forward.balance_loss == 0.04
    written = write_config(model, "mixtral")[1]
    assert (written["output_router_logits"], written["router_aux_loss_coef"]) == (True, 0.02)
