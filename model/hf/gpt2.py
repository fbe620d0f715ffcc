"""GPT-2 (Radford et al. 2019): everything that transformers' GPT2LMHeadModel computes."""

from __future__ import annotations

from model import config as c
from model.hf.activations import ACTIVATIONS, activation_name
from model.hf.config_reader import ConfigReader
from model.hf.family import Entry, Family
from model.hf.layouts import Joined, Linear, Matrix, Vector
from model.hf.stacks import as_stacks

QUERY_KEY_VALUE = ("mixer.query", "mixer.key", "mixer.value")
BIASES = ("mixer.query_bias", "mixer.key_bias", "mixer.value_bias")

INERT = frozenset({
    "gradient_checkpointing", "n_ctx", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj",
})  # fmt: skip


def read(config: ConfigReader) -> c.Model:
    width, heads, layers = config.integer("n_embd"), config.integer("n_head"), config.integer("n_layer")
    norm = c.Norm("layer", config.number("layer_norm_epsilon", 1e-5), bias=True)
    hidden = config.integer("n_inner", None) or 4 * width
    feed_forward = c.MLP(hidden, config.choice("activation_function", ACTIVATIONS, "gelu_new"), bias=True)
    dropout, weight_dropout = config.number("resid_pdrop", 0.1), config.number("attn_pdrop", 0.1)
    scaled, by_layer = config.flag("scale_attn_weights", True), config.flag("scale_attn_by_inverse_layer_idx", False)
    config.expect("add_cross_attention", False)
    head_width = width // heads

    def block(number: int) -> c.Block:
        scale = head_width**-0.5 if scaled else 1.0
        scale = scale / (number + 1) if by_layer else scale if not scaled else None
        mixer = c.Attention(
            heads, heads, head_width, bias=True, output_bias=True, dropout=weight_dropout, score_scale=scale
        )
        return c.Block(mixer, feed_forward, norm, dropout=dropout)

    return c.Model(
        vocab_size=config.integer("vocab_size"),
        width=width,
        context=config.integer("n_positions", 1024),
        layers=as_stacks([block(number) for number in range(layers)]),
        positions=c.Learned(),
        final_norm=norm,
        tied=config.flag("tie_word_embeddings", True),
        dropout=config.number("embd_pdrop", 0.1),
    )


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
    inert=INERT,
    buffers=("*.attn.bias", "*.attn.masked_bias"),
)
