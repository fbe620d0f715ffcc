"""The config of a model: frozen dataclasses that mirror the modules built from them.

Experiments (configs/) fill them in; model/transformer.py and its parts read them. They hold only values: no JAX,
no defaults that depend on a machine. Sizes are numbers of features unless a line says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """Normalisation over the last axis, computed in float32.

    `layer`: (x - mean) / std (Ba et al. 2016); `rms`: x / rms (Zhang & Sennrich 2019). `scale` and `bias`: whether
    the norm has these two learned vectors. The result is multiplied with `offset` + scale, which is 1 at first (Gemma
    stores scales around 0: offset 1).
    """

    kind: Literal["layer", "rms"] = "rms"
    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = False
    offset: float = 0.0


@dataclass(frozen=True)
class LinearScaling:
    """Rotary frequencies divided by `factor`: positions interpolated (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling (its reference code, `apply_scaling`): frequencies of wavelengths above
    `original_context` / `low_frequency` are divided by `factor`, those below `original_context` / `high_frequency`
    stay, those between are interpolated."""

    factor: float
    low_frequency: float
    high_frequency: float
    original_context: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, 3.2 and 3.4): frequencies with less than `beta_slow` turns in `original_context` tokens
    are divided by `factor`, those with more than `beta_fast` stay, those between are interpolated. `truncate`: the two
    borders are whole features. Sines and cosines are multiplied with `attention_factor`; None: 0.1 ln(factor) + 1."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021): pairs of features are rotated by position / base^(2i/H) radians, which
    `scaling` stretches to longer rows."""

    base: float = 10_000.0
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None


@dataclass(frozen=True)
class Learned:
    """A learned vector for each position, added to the token's embedding (GPT-2)."""


@dataclass(frozen=True)
class Sinusoidal:
    """Sines and cosines of wavelengths 2 pi 10000^(2i/D), added to the embedding (Vaswani et al. 2017, 3.5)."""


@dataclass(frozen=True)
class Attention:
    """Causal self-attention: `heads` query heads share `kv_heads` key-value heads (grouped-query attention).

    Scores s are query . key * `score_scale`, by default 1 / sqrt(head_width); with a `score_cap` c they are
    c tanh(s / c) (Gemma 2, 2024, 2). `query_key_norm` is over the features of each `head` (Henry et al. 2020), or of
    all `heads` together (OLMo 2, 2025, 3.2), as `query_key_norm_over` says. `window`: a query sees as many tokens,
    itself included (Beltagy et al. 2020, 3.1); None: all before it. `value_width`: features of a value head, by default
    head_width.
    """

    heads: int
    kv_heads: int
    head_width: int
    rope: Rope | None = None
    query_key_norm: Norm | None = None
    query_key_norm_over: Literal["head", "heads"] = "head"
    bias: bool = False
    output_bias: bool = False
    dropout: float = 0.0
    score_scale: float | None = None
    score_cap: float | None = None
    window: int | None = None
    value_width: int | None = None


@dataclass(frozen=True)
class LSTM:
    """A long short-term memory over time, of as many cells as the model is wide (Hochreiter & Schmidhuber 1997; with
    forget gates, Gers et al. 2000). It begins anew with every document. `forget_bias`: of these gates at first."""

    forget_bias: float = 1.0


@dataclass(frozen=True)
class MLP:
    """Dense feed-forward down(f(up(x))), or gated: down(f(gate(x)) * up(x)) (Shazeer 2020). `bias`: of up and down."""

    width: int
    activation: Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu", "tanh"] = "silu"
    gated: bool = False
    bias: bool = False
    gate_bias: bool = False


@dataclass(frozen=True)
class MoE:
    """Mixture of experts: every token goes through `active` of the `experts` feed-forwards, those that its router
    scores highest; no token is ever dropped (Shazeer et al. 2017; dropless: Gale et al. 2022, MegaBlocks).

    Outputs of the chosen experts are weighted with their scores, which sum to 1 if `normalised`, times `scale`.
    `shared`: the width of a further feed-forward that every token goes through (DeepSeekMoE, Dai et al. 2024); 0: none.
    Three ways keep the load even, each off at 0. `balance_loss` is the weight of a loss, experts * sum over
    experts(share of the row's choices * mean share of its scores), which is 1 if the load is even (Fedus et al. 2021,
    eq. 4; by row: DeepSeek-V3, eq. 17). `router_z_loss` is the weight of the row's mean squared logsumexp of router
    logits (Zoph et al. 2022, eq. 5). `balance_rate`: each step moves every expert's bias, which counts in choosing
    only, by this much towards an even load, whatever the optimizer's rate (Wang et al. 2024, loss-free balancing).
    """

    experts: int
    active: int
    width: int  # hidden features of one expert
    activation: Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu", "tanh"] = "silu"
    gated: bool = True
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalised: bool = True
    scale: float = 1.0
    shared: int = 0
    balance_loss: float = 0.0
    router_z_loss: float = 0.0
    balance_rate: float = 0.0


@dataclass(frozen=True)
class Block:
    """One layer: a mixer over time, then a feed-forward, each with norms where `placement` puts them.

    `pre`: x + f(norm(x)); `post_residual`: norm(x + f(x)) (Vaswani et al. 2017); `post_branch`: x + norm(f(x))
    (OLMo 2); `sandwich`: x + norm(f(norm(x))) (Gemma 2); `plain`: f(x) alone, without norm. `token_shift`: the share of
    each branch's input features that come from the token before in the same document (Peng et al. 2023, RWKV, 3.1.1,
    with a fixed mix). `feed_forward` None: the layer is its mixer.
    """

    mixer: Attention | LSTM
    feed_forward: MLP | MoE | None
    norm: Norm = field(default_factory=Norm)
    placement: Literal["pre", "post_residual", "post_branch", "sandwich", "plain"] = "pre"
    dropout: float = 0.0
    token_shift: float = 0.0


@dataclass(frozen=True)
class Stack:
    """A `pattern` of blocks, repeated `repeats` times: layers = len(pattern) * repeats."""

    pattern: tuple[Block, ...]
    repeats: int


@dataclass(frozen=True)
class Init:
    """Standard deviations of the normal distributions from which parameters are initialised.

    `weight` None means 1 / sqrt(fan in). `residual` is for the matrices that write into the residual stream
    (attention's output, feed-forward's down): GPT-2 takes 0.02 / sqrt(2 * layers); 0 starts every block as identity.
    """

    embedding: float = 0.02
    weight: float | None = None
    residual: float = 0.0


@dataclass(frozen=True)
class Model:
    """A decoder-only language model. With a `logit_cap` c, logits z are c tanh(z / c) (Gemma 2, 2024, 2)."""

    vocab_size: int  # 0 in an experiment: the tokenizer's, set before the model is built
    width: int
    context: int  # tokens: the longest sequence; learned positions end here
    layers: tuple[Stack, ...]
    positions: Learned | Sinusoidal | None = None  # None: rotary positions in attention, or none at all
    final_norm: Norm | None = field(default_factory=Norm)
    tied: bool = True  # the output projection is the embedding table
    embedding_norm: Norm | None = None  # norm of the embedding, before the first block
    embedding_scale: float = 1.0  # Vaswani et al. 2017, 3.4: sqrt(width)
    logit_scale: float = 1.0
    logit_cap: float | None = None
    dropout: float = 0.0
    init: Init = field(default_factory=Init)


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, trained in place of the weights W that they stand beside: a product with W becomes
    x W + alpha / rank * (x down) up, of `rank` features between (Hu et al. 2021, 4.1).

    `paths`: patterns of parameters' paths, in which * stands for any text: stacks.*.mixer.query, *.feed_forward.*,
    output, embedding.table. They choose among matrices; biases and norms stay as they are.
    """

    rank: int
    alpha: float
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Execution:
    """How the model is computed. It changes speed, memory and rounding, but never the parameters or their names.

    `auto` leaves a choice to launch/machine/auto.py, which makes it before a model is built.

    - `dtype`: of activations, and of weights in products; the parameters themselves are float32. `auto`: float32 on
      CPU, bfloat16 elsewhere.
    - `layers`: `scan` compiles one layer of a stack, `unroll` all of them. `auto`: `unroll` on CPU, `scan` elsewhere.
    - `remat`: what the backward pass recomputes (model/schedule.py). `auto`: as little as memory allows.
    - `kernel`: the program that computes attention (model/kernels). `auto`: chosen by backend and mesh.
    - `matmul`: the precision in which activations and weights are multiplied.
    - `precision`: of float32 products in training. `default`: what the device does by itself; `bfloat16`: operands may
      be rounded to it where a CPU multiplies it faster. Sums stay in float32.
    - `loss_chunks`: the logits of a row are computed in this many chunks, one after another, and never held whole.
    - `stage_microbatches`: microbatches into which the pipeline of mesh.stage stages cuts a batch. 0: as many as divide
      the batch, up to four a stage.
    - `panels`: a decoder on one device keeps its weights in panels of a few outputs (model/panels.py).
    - `quantize`: a decoder keeps the weights of layers and logits in 8 or 4 bits (model/quantized_weights.py).
      Embeddings, norms, routers, experts and adapters stay as they are.
    - `cache`: how a decoder remembers keys and values: `plain` in `dtype`, `int8` in 8 bits with a scale a head.
    """

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    layers: Literal["auto", "scan", "unroll"] = "scan"
    remat: Literal["auto", "none", "minimal", "save_qkv", "full", "offload"] = "none"
    kernel: Literal["auto", "reference", "blocks", "cudnn", "splash", "ring", "cached"] = "auto"
    matmul: Literal["plain", "int8", "fp8"] = "plain"
    precision: Literal["default", "bfloat16"] = "default"
    loss_chunks: int = 1
    stage_microbatches: int = 0
    panels: bool = False
    quantize: Literal["none", "int8", "int4"] = "none"
    cache: Literal["plain", "int8"] = "plain"


def blocks(config: Model) -> tuple[Block, ...]:
    """Every layer's block, first to last."""
    return tuple(block for stack in config.layers for _ in range(stack.repeats) for block in stack.pattern)
