"""Parameters, FLOPs and memory of a model, by arithmetic: the one source for utilization, plans and cards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from model import config as c


def block_matmul_parameters(block: c.Block, width: int) -> int:
    """The number of weights that each token is multiplied with in a block: router and chosen experts included."""
    mixer, feed_forward = block.mixer, block.feed_forward
    return MIXERS[type(mixer)].matmul_parameters(mixer, width) + FEED_FORWARDS[type(feed_forward)](feed_forward, width)


def attention_matmul_parameters(attention: c.Attention, width: int) -> int:
    heads = attention.heads + attention.kv_heads  # of query and key, and of output and value
    return width * heads * (attention.head_width + value_width(attention))


def attention_score_flops(attention: c.Attention, length: int) -> float:
    """Products of a token's queries with the keys that it sees, and of attention weights with values."""
    window = min(attention.window or length, length)
    seen = (window * (window + 1) / 2 + (length - window) * window) / length  # keys, on the mean
    return 2 * attention.heads * (attention.head_width + value_width(attention)) * seen


def attention_saved_features(attention: c.Attention, width: int, tensor: int) -> float:
    heads = attention.heads + attention.kv_heads
    return heads * (attention.head_width + value_width(attention)) / tensor


def attention_cached_numbers(attention: c.Attention, width: int, length: int) -> int:
    return (
        attention.kv_heads * (attention.head_width + value_width(attention)) * min(attention.window or length, length)
    )


def value_width(attention: c.Attention) -> int:
    return attention.value_width or attention.head_width


def lstm_matmul_parameters(lstm: c.LSTM, width: int) -> int:
    return 8 * width * width  # four gates, of the input and of the state


def lstm_saved_features(lstm: c.LSTM, width: int, tensor: int) -> float:
    return 8 * width  # four gates and two states, which in bfloat16 too are float32; whole on every device


def lstm_cached_numbers(lstm: c.LSTM, width: int, length: int) -> int:
    return 2 * width  # its two states, however long the text


class MixerCost(NamedTuple):
    """What is counted of one class of mixers: `matmul_parameters(mixer, width)`, weights that each token is multiplied
    with; `score_flops(mixer, length)`, FLOPs a token of products without weights; `saved_features(mixer, width,
    tensor)`, numbers a token that are saved on each of `tensor` devices for the backward pass; `cached_numbers(mixer,
    width, length)`, numbers that a decoder reads for a token behind `length` others."""

    matmul_parameters: Callable
    score_flops: Callable
    saved_features: Callable
    cached_numbers: Callable


MIXERS = {
    c.Attention: MixerCost(
        attention_matmul_parameters, attention_score_flops, attention_saved_features, attention_cached_numbers
    ),
    c.LSTM: MixerCost(lstm_matmul_parameters, lambda *_: 0.0, lstm_saved_features, lstm_cached_numbers),
}


def mlp_matmul_parameters(mlp: c.MLP, width: int) -> int:
    return width * mlp.width * (3 if mlp.gated else 2)


def moe_matmul_parameters(moe: c.MoE, width: int) -> int:
    hidden = moe.active * moe.width + moe.shared
    return width * moe.experts + width * hidden * (3 if moe.gated else 2)


FEED_FORWARDS = {c.MLP: mlp_matmul_parameters, c.MoE: moe_matmul_parameters, type(None): lambda *_: 0}


def forward_flops(model: c.Model, length: int) -> float:
    """FLOPs a token of the forward pass, in rows of `length` tokens: 2 for each weight, and attention's own. Causal
    attention is half a square (PaLM, Chowdhery et al. 2022, appendix B, counts the whole square)."""
    matrices = sum(block_matmul_parameters(block, model.width) for block in c.blocks(model))
    return 2 * (matrices + model.width * model.vocab_size) + score_flops(model, length)


def score_flops(model: c.Model, length: int) -> float:
    """Attention's part of `forward_flops`: products of queries with keys, and of attention weights with values."""
    return sum(MIXERS[type(block.mixer)].score_flops(block.mixer, length) for block in c.blocks(model))


def training_flops(model: c.Model, length: int, frozen: bool = False) -> float:
    """FLOPs a token of a training step: forward, and twice as many backward. Recomputation is not counted.

    With `frozen` weights the backward pass makes no gradients of them; adapters, which are small, are not counted."""
    forward = forward_flops(model, length)
    return 3 * forward - (forward - score_flops(model, length) if frozen else 0)


def decoding_weights(model: c.Model, batch: int) -> float:
    """The number of weights that a decoder reads for one token of each of `batch` rows: every matrix once, and of the
    experts those that so many rows choose on the mean if all experts are as likely."""

    def read(block: c.Block) -> float:
        moe = block.feed_forward
        if isinstance(moe, c.MoE):
            chosen = moe.experts * (1 - (1 - moe.active / moe.experts) ** batch)
            block = dataclasses.replace(block, feed_forward=dataclasses.replace(moe, active=chosen))
        return block_matmul_parameters(block, model.width)

    return sum(map(read, c.blocks(model))) + model.width * model.vocab_size


def cached_numbers(model: c.Model, length: float) -> float:
    """The numbers, most of them keys and values, that a decoder reads for a token behind `length` others of its row."""
    return sum(MIXERS[type(b.mixer)].cached_numbers(b.mixer, model.width, length) for b in c.blocks(model))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device in training: at rest, saved for the backward pass, `working` at the fullest moment."""

    parameters: float
    optimizer: float
    gradients: float
    saved: float
    working: float

    @property
    def total(self) -> float:
        return self.parameters + self.optimizer + self.gradients + self.saved + self.working


def estimate_memory(
    model: c.Model,
    execution: c.Execution,
    shape: Mapping[str, int],
    rows: int,
    length: int,
    optimizer: float = 2.0,
    accumulates: bool = False,
) -> MemoryEstimate:
    """Estimates the memory of a training step on each device of a mesh, to choose by before anything is compiled.

    `shape`: mesh axis -> devices; `rows` of one microbatch; `optimizer`: the numbers it keeps for each parameter;
    `accumulates`: whether gradients of several microbatches are summed. tests/launch/test_plan.py compares the estimate
    with the compiler's own figure.
    """
    count = matrix_parameters(model) / math.prod(size for axis, size in shape.items() if axis != "replica")
    tokens = rows * length / (shape["replica"] * shape["data"] * shape["expert"] * shape["context"])
    features = sum(saved_features(block, model.width, execution.remat, shape) for block in c.blocks(model))
    pipeline = 1.0
    if shape["stage"] > 1:
        microbatches = pipeline_microbatches(execution, shape, rows)
        pipeline = (microbatches + shape["stage"] - 1) / microbatches
    itemsize = 4 if execution.dtype == "float32" else 2
    layer = max(working_bytes(block, model.width, tokens, shape, itemsize) for block in c.blocks(model))
    vocab = model.vocab_size / (shape["tensor"] * shape["stage"])
    logits = tokens / execution.loss_chunks * vocab * (4 + 2 * itemsize) + model.width * vocab * (4 + itemsize)
    return MemoryEstimate(
        parameters=4 * count,
        optimizer=4 * count * optimizer,
        gradients=4 * count * (2 if accumulates else 1),
        saved=itemsize * tokens * features / shape["stage"] * pipeline,
        working=max(layer, logits),
    )


def pipeline_microbatches(execution: c.Execution, shape: Mapping[str, int], rows: int) -> int:
    """About how many microbatches a pipeline cuts `rows` rows into (model/schedule.py computes it exactly)."""
    shard_rows = rows // (shape["replica"] * shape["data"] * shape["expert"])
    return execution.stage_microbatches or max(1, min(4 * shape["stage"], shard_rows))


def saved_features(block: c.Block, width: int, remat: str, shape: Mapping[str, int]) -> float:
    """How many numbers a layer saves for each token for the backward pass (model/schedule.py names them)."""
    if remat in ("full", "offload"):
        return width
    features = 2 * width + MIXERS[type(block.mixer)].saved_features(block.mixer, width, shape["tensor"])
    if remat == "save_qkv" or block.feed_forward is None:
        return features
    features += (2 if block.feed_forward.gated else 1) * hidden_features(block.feed_forward, shape)
    return features if remat == "minimal" else 2.5 * features


def hidden_features(feed_forward: c.MLP | c.MoE | None, shape: Mapping[str, int]) -> float:
    """Hidden features a token on one device; for experts, of as many rows as could come (model/experts.py)."""
    if feed_forward is None:
        return 0.0
    if isinstance(feed_forward, c.MLP):
        return feed_forward.width / shape["tensor"]
    routed = feed_forward.active * shape["expert"] * feed_forward.width
    return (routed + feed_forward.shared) / shape["tensor"]


def working_bytes(block: c.Block, width: int, tokens: float, shape: Mapping[str, int], itemsize: int) -> float:
    """Bytes in use in one layer's backward pass: hidden features and residual streams with their gradients, the weights
    of this layer and the next, and the gradient of one layer's."""
    hidden = hidden_features(block.feed_forward, shape)
    experts = shape["expert"] if isinstance(block.feed_forward, c.MoE) else 1
    matrices = block_matrix_parameters(block, width) / (shape["tensor"] * experts)
    return itemsize * (tokens * (5 * hidden + 6 * width) + 3 * matrices)


def matrix_parameters(model: c.Model) -> int:
    """The number of parameters in matrices: all but biases and norms."""
    tables = 1 if model.tied else 2
    blocks = sum(block_matrix_parameters(block, model.width) for block in c.blocks(model))
    return blocks + tables * model.vocab_size * model.width


def block_matrix_parameters(block: c.Block, width: int) -> int:
    """The number of weights in a block's matrices, those of all experts included."""
    feed_forward = block.feed_forward
    if isinstance(feed_forward, c.MoE):
        feed_forward = dataclasses.replace(feed_forward, active=feed_forward.experts)
    return block_matmul_parameters(dataclasses.replace(block, feed_forward=feed_forward), width)


def inactive_parameters(model: c.Model) -> int:
    """The number of parameters that a token does not meet: those of the experts that it is not sent to."""
    return sum(
        block_matrix_parameters(block, model.width) - block_matmul_parameters(block, model.width)
        for block in c.blocks(model)
    )
