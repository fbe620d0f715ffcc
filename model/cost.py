"""Parameters, FLOPs and memory of a model by arithmetic: the one source for utilization, plans and cards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from model import config as c


def block_matmul_parameters(block: c.Block, width: int) -> int:
    """Weights of a block that every token is multiplied with: of its experts those it chose, and the router."""
    mixer = block.mixer
    attention = width * mixer.head_width * (2 * mixer.heads + 2 * mixer.kv_heads)
    return attention + FEED_FORWARDS[type(block.feed_forward)](block.feed_forward, width)


def mlp_matmul_parameters(mlp: c.MLP, width: int) -> int:
    return width * mlp.width * (3 if mlp.gated else 2)


def moe_matmul_parameters(moe: c.MoE, width: int) -> int:
    hidden = moe.active * moe.width + moe.shared
    return width * moe.experts + width * hidden * (3 if moe.gated else 2)


FEED_FORWARDS = {c.MLP: mlp_matmul_parameters, c.MoE: moe_matmul_parameters}


def forward_flops(model: c.Model, length: int) -> float:
    """Multiplications and additions a token, at rows of `length` tokens: 2 a weight, and causal attention's half
    square (PaLM, Chowdhery et al. 2022, appendix B, counts the whole one)."""
    matrices = sum(block_matmul_parameters(block, model.width) for block in c.blocks(model))
    return 2 * (matrices + model.width * model.vocab_size) + score_flops(model, length)


def score_flops(model: c.Model, length: int) -> float:
    """Of these, attention's own: queries with keys, and weights with values."""
    return 4 * sum(block.mixer.heads * block.mixer.head_width for block in c.blocks(model)) * (length + 1) / 2


def training_flops(model: c.Model, length: int) -> float:
    """FLOPs a token of one update: forward, and twice that backward. Recomputation is not counted."""
    return 3 * forward_flops(model, length)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one device while it trains: at rest, saved for the backward pass, and in use at the fullest moment."""

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
    """What a step takes on each device of a mesh of this `shape` (axis -> devices): arithmetic, to choose by before
    anything is compiled. `rows` of one microbatch; `optimizer`: numbers it keeps a parameter; `accumulates`: gradients
    of several microbatches are summed.

    Against the compiler's own figure: tests/launch/test_plan.py.
    """
    here = matrix_parameters(model) / math.prod(size for axis, size in shape.items() if axis != "replica")
    tokens = rows * length / (shape["replica"] * shape["data"] * shape["expert"] * shape["context"])
    kept = sum(saved_features(block, model.width, execution.remat, shape) for block in c.blocks(model))
    pipeline = 1.0
    if shape["stage"] > 1:
        parts = pipeline_microbatches(execution, shape, rows)
        pipeline = (parts + shape["stage"] - 1) / parts
    wide = 4 if execution.dtype == "float32" else 2
    fullest = max(working_bytes(block, model.width, tokens, shape, wide) for block in c.blocks(model))
    head = model.vocab_size / (shape["tensor"] * shape["stage"])
    logits = tokens / execution.loss_chunks * head * (4 + 2 * wide) + model.width * head * (4 + wide)
    return MemoryEstimate(
        parameters=4 * here,
        optimizer=4 * here * optimizer,
        gradients=4 * here * (2 if accumulates else 1),
        saved=wide * tokens * kept / shape["stage"] * pipeline,
        working=max(fullest, logits),
    )


def pipeline_microbatches(execution: c.Execution, shape: Mapping[str, int], rows: int) -> int:
    """Into about how many microbatches a pipeline cuts `rows` rows (model/schedule.py knows exactly)."""
    mine = rows // (shape["replica"] * shape["data"] * shape["expert"])
    return execution.stage_microbatches or max(1, min(4 * shape["stage"], mine))


def saved_features(block: c.Block, width: int, remat: str, shape: Mapping[str, int]) -> float:
    """Numbers a token of one layer that are kept for the backward pass (model/schedule.py names them)."""
    mixer, tensor = block.mixer, shape["tensor"]
    if remat in ("full", "offload"):
        return width
    attention = (2 * mixer.heads + 2 * mixer.kv_heads) * mixer.head_width / tensor
    kept = 2 * width + attention
    if remat == "save_qkv":
        return kept
    kept += (2 if block.feed_forward.gated else 1) * hidden_features(block.feed_forward, shape)
    return kept if remat == "minimal" else 2.5 * kept


def hidden_features(feed_forward: c.MLP | c.MoE, shape: Mapping[str, int]) -> float:
    """Hidden numbers a token; the experts' rows are as many as could come (model/experts.py)."""
    if isinstance(feed_forward, c.MLP):
        return feed_forward.width / shape["tensor"]
    routed = feed_forward.active * shape["expert"] * feed_forward.width
    return (routed + feed_forward.shared) / shape["tensor"]


def working_bytes(block: c.Block, width: int, tokens: float, shape: Mapping[str, int], wide: int) -> float:
    """In one layer's backward pass: hidden features and their gradients, the residual stream's, and the weights of this
    layer and the next with one gradient."""
    hidden = hidden_features(block.feed_forward, shape)
    experts = shape["expert"] if isinstance(block.feed_forward, c.MoE) else 1
    matrices = block_matrix_parameters(block, width) / (shape["tensor"] * experts)
    return wide * (tokens * (5 * hidden + 6 * width) + 3 * matrices)


def matrix_parameters(model: c.Model) -> int:
    """Parameters but for biases and norms."""
    tables = 1 if model.tied else 2
    blocks = sum(block_matrix_parameters(block, model.width) for block in c.blocks(model))
    return blocks + tables * model.vocab_size * model.width


def block_matrix_parameters(block: c.Block, width: int) -> int:
    """Weights of a block's matrices, all experts'."""
    feed_forward = block.feed_forward
    if isinstance(feed_forward, c.MoE):
        feed_forward = dataclasses.replace(feed_forward, active=feed_forward.experts)
    return block_matmul_parameters(dataclasses.replace(block, feed_forward=feed_forward), width)
