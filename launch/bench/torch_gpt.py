"""A GPT in plain PyTorch, of any GPTShape: the network that launch/bench/torch_peer.py trains beside ours.

Imports PyTorch at its top: only the peer's process and its tests import this file.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn import functional as F

from launch.bench.gpt_shape import GPTShape

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class CausalSelfAttention(nn.Module):
    def __init__(self, shape: GPTShape):
        super().__init__()
        self.heads = shape.heads
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.output = nn.Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x_BTD):
        B, T, D = x_BTD.shape
        heads_BTNH = (x.view(B, T, self.heads, -1) for x in self.query_key_value(x_BTD).split(D, dim=2))
        query_BNTH, key_BNTH, value_BNTH = (x.transpose(1, 2) for x in heads_BTNH)
        mixed_BNTH = F.scaled_dot_product_attention(query_BNTH, key_BNTH, value_BNTH, is_causal=True)
        return self.output(mixed_BNTH.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    def __init__(self, shape: GPTShape):
        super().__init__()
        self.activation = ACTIVATIONS[shape.activation]
        self.up = nn.Linear(shape.width, shape.hidden, bias=shape.bias)
        self.down = nn.Linear(shape.hidden, shape.width, bias=shape.bias)

    def forward(self, x_BTD):
        return self.down(self.activation(self.up(x_BTD)))


class Block(nn.Module):
    def __init__(self, shape: GPTShape):
        super().__init__()
        self.mixer_norm = nn.LayerNorm(shape.width, bias=shape.norm_bias)
        self.mixer = CausalSelfAttention(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width, bias=shape.norm_bias)
        self.feed_forward = FeedForward(shape)

    def forward(self, x_BTD):
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD))
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class GPT(nn.Module):
    """Token and position embeddings, blocks, a norm, and logits by the embedding table."""

    def __init__(self, shape: GPTShape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=shape.norm_bias)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)  # or the first losses are in the hundreds

    def forward(self, tokens_BT):
        """Logits [B, T, V]."""
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.embedding(tokens_BT) + self.positions(positions_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return F.linear(self.norm(x_BTD), self.embedding.weight)

    def loss(self, tokens_BT, targets_BT):
        """Mean cross-entropy in nats a token."""
        return F.cross_entropy(self(tokens_BT).flatten(0, 1), targets_BT.flatten())
