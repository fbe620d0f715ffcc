"""GPT-2's exact shapes (Radford et al. 2019; the parameters of the published checkpoints), for a user's own text.

    skald train gpt2:small --set data.source.path=FOLDER --set data.tokenizer.path=GPT2_FOLDER

GPT2_FOLDER holds vocab.json and merges.txt. Cost on accelerators and the loss that results were not measured.
"""

from __future__ import annotations

from data.config import Data, Source, Tokenizer
from model.config import MLP, Attention, Block, Execution, Init, Learned, Model, Norm, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule


def gpt2(layers: int, width: int, heads: int) -> Model:
    norm = Norm("layer", bias=True)
    mixer = Attention(heads, heads, width // heads, bias=True, output_bias=True, dropout=0.1)
    block = Block(mixer, MLP(4 * width, "gelu_tanh", bias=True), norm, dropout=0.1)
    return Model(
        vocab_size=50257,
        width=width,
        context=1024,
        layers=(Stack((block,), layers),),
        positions=Learned(),
        final_norm=norm,
        dropout=0.1,
        init=Init(embedding=0.02, weight=0.02, residual=0.02 / (2 * layers) ** 0.5),
    )


def pretraining(name: str, model: Model, rate: float) -> Experiment:
    """Pretraining at half a million tokens a step, as for GPT-2 and GPT-3; paths are placeholders to --set."""
    return Experiment(
        name=f"gpt2:{name}",
        model=model,
        data=Data(Source("text"), Tokenizer("gpt2", "gpt2"), length=1024),
        optimizer=Optimizer(peak_rate=rate, rule=AdamW(), schedule=Schedule("cosine", warmup=2000)),
        steps=600_000,
        batch_size=512,
        microbatches=8,
        evaluation=Evaluation(every=2000, rows=16, prompt="The"),
        checkpoints=Checkpoints(every=2000),
        execution=Execution(dtype="auto", layers="auto", remat="auto"),
    )


def small() -> Experiment:
    """GPT-2 small, 124 M: the reference for speed and parity."""
    return pretraining("small", gpt2(12, 768, 12), 6e-4)


def medium() -> Experiment:
    """GPT-2 medium, 355 M."""
    return pretraining("medium", gpt2(24, 1024, 16), 3e-4)


def large() -> Experiment:
    """GPT-2 large, 774 M."""
    return pretraining("large", gpt2(36, 1280, 20), 2.5e-4)


def xl() -> Experiment:
    """GPT-2 XL, 1.56 B."""
    return pretraining("xl", gpt2(48, 1600, 25), 2e-4)
