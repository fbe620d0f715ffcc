"""GPT-2 (Radford et al. 2019): everything that transformers' GPT2LMHeadModel computes."""

from __future__ import annotations

from dataclasses import replace

from model import config as c
from model.hf.activations import ACTIVATIONS, activation_name
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Joined, Linear, Matrix, Vector
from model.hf.stacks import as_stacks

QUERY_KEY_VALUE = ("mixer.query", "mixer.key", "mixer.value")
BIASES = ("mixer.query_bias", "mixer.key_bias", "mixer.value_bias")

DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
INERT = frozenset({
    "n_ctx", "n_special", "predict_special_tokens", "reorder_and_upcast_attn", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
})  # fmt: skip


def read(config: ConfigReader) -> c.Model:
    width, layers = config.integer("n_embd"), config.integer("n_layer")
    norm = c.Norm("layer", config.number("layer_norm_epsilon"), bias=True)
    hidden = config.integer("n_inner", null=4 * width)
    feed_forward = c.MLP(hidden, config.choice("activation_function", ACTIVATIONS), bias=True)
    dropout = config.number("resid_pdrop")
    config.expect("add_cross_attention", False)
    return c.Model(
        vocab_size=config.integer("vocab_size"),
        width=width,
        context=config.integer("n_positions"),
        layers=as_stacks(
            [c.Block(mixer, feed_forward, norm, dropout=dropout) for mixer in mixers(config, width, layers)]
        ),
        positions=c.Learned(),
        final_norm=norm,
        tied=config.flag("tie_word_embeddings"),
        dropout=config.number("embd_pdrop"),
    )


def mixers(config: ConfigReader, width: int, layers: int) -> list[c.Attention]:
    """The attention of each layer: all are alike but for the scale of scores."""
    heads, dropout = config.integer("n_head"), config.number("attn_pdrop")
    if width % heads:
        config.refuse(f"n_embd={width} is no multiple of n_head={heads}")
    mixer = c.Attention(heads, heads, width // heads, bias=True, output_bias=True, dropout=dropout)
    scale = mixer.head_width**-0.5 if config.flag("scale_attn_weights") else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx")
    scales = [scale / (number + 1) if by_layer else scale for number in range(layers)]
    return [mixer if scale == mixer.head_width**-0.5 else replace(mixer, score_scale=scale) for scale in scales]


def write(model: c.Model) -> dict:
    blocks = c.blocks(model)
    block, mixer = blocks[0], blocks[0].mixer
    by_layer = len(blocks) > 1 and mixer.score_scale != blocks[1].mixer.score_scale
    return {
        "vocab_size": model.vocab_size,
        "n_positions": model.context,
        "n_embd": model.width,
        "n_layer": len(blocks),
        "n_head": mixer.heads,
        "n_inner": block.feed_forward.width,
        "activation_function": activation_name(block.feed_forward.activation),
        "resid_pdrop": block.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": mixer.dropout,
        "layer_norm_epsilon": block.norm.epsilon,
        "scale_attn_weights": mixer.score_scale != 1.0,
        "scale_attn_by_inverse_layer_idx": by_layer,
        "tie_word_embeddings": model.tied,
    }


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    read=read,
    write=write,
    tables={
        c.Model: (
            Entry("transformer.wte.weight", "embedding.table", Matrix()),
            Entry("transformer.wpe.weight", "positions.table", Matrix()),
            Entry("transformer.ln_f.weight", "final_norm.scale", Vector()),
            Entry("transformer.ln_f.bias", "final_norm.bias", Vector()),
            Entry("lm_head.weight", "output", Linear()),
        ),
        c.Block: (
            Entry("ln_1.weight", "mixer_norm.scale", Vector()),
            Entry("ln_1.bias", "mixer_norm.bias", Vector()),
            Entry("ln_2.weight", "feed_forward_norm.scale", Vector()),
            Entry("ln_2.bias", "feed_forward_norm.bias", Vector()),
        ),
        c.Attention: (
            Entry("attn.c_attn.weight", QUERY_KEY_VALUE, Joined(Matrix(), 1)),
            Entry("attn.c_attn.bias", BIASES, Joined(Vector(), 0)),
            Entry("attn.c_proj.weight", "mixer.output", Matrix(input_axes=2)),
            Entry("attn.c_proj.bias", "mixer.output_bias", Vector()),
        ),
        c.MLP: (
            Entry("mlp.c_fc.weight", "feed_forward.up", Matrix()),
            Entry("mlp.c_fc.bias", "feed_forward.up_bias", Vector()),
            Entry("mlp.c_proj.weight", "feed_forward.down", Matrix()),
            Entry("mlp.c_proj.bias", "feed_forward.down_bias", Vector()),
        ),
    },
    layer="transformer.h.{layer}.",
    prefix="transformer.",
    defaults=DEFAULTS,
    aliases=ALIASES,
    inert=INERT,
    buffers=("*.attn.bias", "*.attn.masked_bias"),
)
