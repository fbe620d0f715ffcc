"""The original Transformer's decoder side as a language model (Vaswani et al. 2017, table 3, base), on characters.

    skald train vaswani --set steps=2000

Sinusoidal positions, norm after each residual sum, ReLU, embeddings scaled by sqrt(width). Cost and loss of the paper's
base were not measured; by its FLOPs it takes hours on a CPU. `tiny` is its layout at the quick start's size.

    skald train vaswani:tiny: 2.085 nats a token over the whole validation split (seed 0), 282 seconds on one core
"""

from __future__ import annotations

from dataclasses import replace

from data.config import Data, Source, Tokenizer
from model.config import MLP, Attention, Block, Init, Model, Norm, Sinusoidal, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule


def vaswani(layers: int, width: int, heads: int, context: int) -> Model:
    mixer = Attention(heads, heads, width // heads)
    norm = Norm("layer", bias=True)
    block = Block(mixer, MLP(4 * width, "relu", bias=True), norm, "post_residual", dropout=0.1)
    deviation = width**-0.5
    return Model(
        vocab_size=65,
        width=width,
        context=context,
        layers=(Stack((block,), layers),),
        positions=Sinusoidal(),
        final_norm=None,
        embedding_scale=width**0.5,
        dropout=0.1,
        init=Init(embedding=deviation, weight=deviation, residual=deviation),
    )


def default() -> Experiment:
    """The original Transformer's decoder side, base size: 6 layers of 512."""
    return Experiment(
        name="vaswani",
        model=vaswani(6, 512, 8, 256),
        data=Data(Source("embedded:shakespeare"), Tokenizer("characters"), length=256, split="position"),
        optimizer=Optimizer(
            peak_rate=5e-4,
            rule=AdamW(beta2=0.98, epsilon=1e-9, weight_decay=0.0),
            schedule=Schedule("cosine", warmup=400),
            clip=None,
        ),
        steps=4000,
        batch_size=32,
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )


def tiny() -> Experiment:
    """The same layout at the quick start's size: 4 layers of 128."""
    base = default()
    data = replace(base.data, length=64)
    return replace(base, name="vaswani:tiny", model=vaswani(4, 128, 4, 64), data=data, steps=2000, batch_size=12)
