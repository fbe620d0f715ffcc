"""Mixtral's shapes: Llama's, with eight experts a layer of which every token goes through two (Jiang et al. 2024).

    skald train mixtral:8x7b --set data.source.path=FOLDER --set data.tokenizer.path=tokenizer.json

`tiny` trains on Shakespeare's bytes without further files. Cost and loss of 8x7b were not measured.
"""

from __future__ import annotations

from data.config import Data, Source, Tokenizer
from model.config import Attention, Block, Execution, Init, Model, MoE, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Mesh, Optimizer, Schedule


def mixtral(vocab_size, width, layers, heads, kv_heads, experts: MoE, context, base=1_000_000.0, tied=False) -> Model:
    attention, norm = Attention(heads, kv_heads, width // heads, rope=Rope(base)), Norm("rms", epsilon=1e-5)
    return Model(
        vocab_size=vocab_size,
        width=width,
        context=context,
        layers=(Stack((Block(attention, experts, norm),), layers),),
        final_norm=norm,
        tied=tied,
        init=Init(embedding=0.02, weight=0.02, residual=0.02 / (2 * layers) ** 0.5),
    )


def tiny() -> Experiment:
    """Mixtral's layout at 1.4 M parameters, 0.5 M a token, on Shakespeare's bytes: for a laptop.

    skald train mixtral:tiny: 1.754 nats a byte over the whole validation split (seed 0), 25 minutes on two cores that
    had much else to do, when every row was multiplied with all experts there; 2.6 times as fast since
    (model/kernels/windows.py).
    """
    experts = MoE(experts=8, active=2, width=96, balance_loss=0.01)
    return Experiment(
        name="mixtral:tiny",
        model=mixtral(256, 128, 4, 4, 2, experts, 128, base=10_000.0, tied=True),
        data=Data(Source("embedded:shakespeare"), Tokenizer("bytes"), 128, split="position"),
        optimizer=Optimizer(peak_rate=2e-3, rule=AdamW(), schedule=Schedule("cosine", warmup=100)),
        steps=1000,
        batch_size=8,
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )


def eight_by_seven_b() -> Experiment:
    """Mixtral's 8x7B shape: 32 layers of 4096, 12.9 B parameters a token; experts on eight devices."""
    experts = MoE(experts=8, active=2, width=14_336, balance_loss=0.02)
    return Experiment(
        name="mixtral:8x7b",
        model=mixtral(32_000, 4096, 32, 32, 8, experts, 32_768),
        data=Data(Source("text"), Tokenizer("json", "tokenizer.json"), 4096),  # placeholders to --set
        optimizer=Optimizer(peak_rate=3e-4, rule=AdamW(), schedule=Schedule("cosine", warmup=2000)),
        steps=500_000,
        batch_size=1024,
        evaluation=Evaluation(every=1000, rows=16, prompt="The"),
        checkpoints=Checkpoints(every=1000),
        mesh=Mesh(data=0, expert=8),
        execution=Execution(dtype="auto", layers="auto", remat="auto", loss_chunks=8),
    )


VARIANTS = {"tiny": tiny, "8x7b": eight_by_seven_b}  # a name may begin with a digit here
