"""Llama's shapes: rotary positions, RMSNorm, gated SiLU, no biases (Touvron et al. 2023; Llama 3 model cards).

    skald train llama:1b --set data.source.path=FOLDER --set data.tokenizer.path=tokenizer.json

`tiny` trains on Shakespeare's bytes without further files. Cost and loss of the others were not measured.

    skald train llama:tiny: 1.616 nats a byte over the whole validation split (seed 0), 414 seconds on one busy core
"""

from __future__ import annotations

from dataclasses import replace

from data.config import Data, Source, Tokenizer
from model.config import MLP, Attention, Block, Execution, Init, Model, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule


def llama(vocab_size, width, layers, heads, kv_heads, feed_forward, context, base=10_000.0, tied=False) -> Model:
    head_width, norm = width // heads, Norm("rms", epsilon=1e-5)
    block = Block(Attention(heads, kv_heads, head_width, rope=Rope(base)), MLP(feed_forward, "silu", gated=True), norm)
    return Model(
        vocab_size=vocab_size,
        width=width,
        context=context,
        layers=(Stack((block,), layers),),
        final_norm=norm,
        tied=tied,
        init=Init(embedding=0.02, weight=0.02, residual=0.02 / (2 * layers) ** 0.5),
    )


def pretraining(name: str, model: Model, data: Data, rate: float, batch_size: int, steps: int) -> Experiment:
    return Experiment(
        name=f"llama:{name}",
        model=model,
        data=data,
        optimizer=Optimizer(peak_rate=rate, rule=AdamW(), schedule=Schedule("cosine", warmup=2000)),
        steps=steps,
        batch_size=batch_size,
        evaluation=Evaluation(every=1000, rows=16, prompt="The"),
        checkpoints=Checkpoints(every=1000),
        execution=Execution(dtype="auto", layers="auto", remat="auto", loss_chunks=8),
    )


def text(length: int) -> Data:
    """Text in rows of `length` tokens; paths are placeholders to --set."""
    return Data(Source("text"), Tokenizer("json", "tokenizer.json"), length)


def tiny() -> Experiment:
    """Llama's layout at 1 M parameters, on Shakespeare's bytes: for a laptop."""
    data = Data(Source("embedded:shakespeare"), Tokenizer("bytes"), 128, split="position")
    experiment = pretraining("tiny", llama(256, 128, 4, 4, 2, 384, 128, tied=True), data, 2e-3, 8, 2000)
    schedule = Schedule("cosine", warmup=100)
    return replace(
        experiment,
        optimizer=replace(experiment.optimizer, schedule=schedule),
        execution=Execution(dtype="auto", layers="auto", remat="auto"),
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )


def one_b() -> Experiment:
    """Llama 3.2's 1B shape: 16 layers of 2048."""
    return pretraining(
        "1b", llama(128_256, 2048, 16, 32, 8, 8192, 8192, 500_000.0, tied=True), text(8192), 3e-4, 256, 500_000
    )


def seven_b() -> Experiment:
    """Llama 2's 7B shape: 32 layers of 4096."""
    return pretraining("7b", llama(32_000, 4096, 32, 32, 32, 11_008, 4096), text(4096), 3e-4, 1024, 500_000)


def eight_b() -> Experiment:
    """Llama 3's 8B shape: 32 layers of 4096, grouped heads."""
    return pretraining("8b", llama(128_256, 4096, 32, 32, 8, 14_336, 8192, 500_000.0), text(8192), 3e-4, 1024, 500_000)


def seventy_b() -> Experiment:
    """Llama 2's 70B shape: 80 layers of 8192, grouped heads."""
    return pretraining("70b", llama(32_000, 8192, 80, 64, 8, 28_672, 4096), text(4096), 1.5e-4, 1024, 500_000)


# A name may begin with a digit here.
VARIANTS = {"tiny": tiny, "1b": one_b, "7b": seven_b, "8b": eight_b, "70b": seventy_b}
