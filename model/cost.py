"""Parameters and FLOPs of a model: the one source for utilization, plans and cards."""

from __future__ import annotations

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
    weights = sum(block_matmul_parameters(block, model.width) for block in c.blocks(model))
    weights += model.width * model.vocab_size
    scores = sum(block.mixer.heads * block.mixer.head_width for block in c.blocks(model)) * (length + 1) / 2
    return 2 * weights + 4 * scores


def training_flops(model: c.Model, length: int) -> float:
    """FLOPs a token of one update: forward, and twice that backward. Recomputation is not counted."""
    return 3 * forward_flops(model, length)


PEAK_BFLOAT16 = {  # FLOP/s of one device in dense bfloat16, by JAX's device_kind; vendors' data sheets
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
