"""The hyperparameters of a GPT (Radford et al. 2019) in a config's JSON: what peers on PyTorch build their model from.

launch/bench/huggingface.py and torch_peer.py read them.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # those that the peers have


@dataclass(frozen=True)
class GPTShape:
    """Learned positions, LayerNorm before each branch, a plain feed-forward, the embedding table as output."""

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    hidden: int  # features of the feed-forward
    activation: str
    bias: bool  # of matrices
    norm_bias: bool


def gpt_shape(model: dict) -> GPTShape:
    """The shape of a Model as JSON. Raises ValueError for a model that is no GPT."""
    block = model["layers"][0]["pattern"][0]
    mixer, mlp = block["mixer"], block["feed_forward"]
    if len(model["layers"]) > 1 or not is_gpt(model, block):
        raise ValueError("the peer is a GPT-2, which has no such layers; it takes shakespeare:nanogpt and gpt2:*")
    return GPTShape(
        vocab_size=model["vocab_size"],
        context=model["context"],
        width=model["width"],
        layers=model["layers"][0]["repeats"],
        heads=mixer["heads"],
        hidden=mlp["width"],
        activation=mlp["activation"],
        bias=mlp["bias"],
        norm_bias=block["norm"]["bias"],
    )


def is_gpt(model: dict, block: dict) -> bool:
    """Whether all layers are like this block, and that is one of a GPT's."""
    mixer, mlp = block["mixer"], block["feed_forward"] or {"is": None}
    if mixer["is"] != "Attention" or mlp["is"] != "MLP":
        return False
    changes = ("rope", "query_key_norm", "score_cap", "score_scale", "window")
    plain_attention = not any(mixer[name] for name in changes) and mixer["kv_heads"] == mixer["heads"]
    plain_mlp = not mlp["gated"] and mlp["activation"] in ACTIVATIONS
    pre_norm = block["norm"]["kind"] == "layer" and block["placement"] == "pre" and not block["token_shift"]
    ends = (model["positions"] or {}).get("is") == "Learned" and model["tied"] and not model["embedding_norm"]
    return plain_attention and plain_mlp and pre_norm and ends and len(model["layers"][0]["pattern"]) == 1
