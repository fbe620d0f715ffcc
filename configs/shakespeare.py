"""Characters of Shakespeare: the quick start. tinyshakespeare ships with the project, nothing is downloaded.

    bash launch/local.sh train shakespeare

Losses are nats a token over the whole validation split (the text's last tenth), in windows of 64 that do not overlap;
figures are means of three seeds, with their curves in configs/curves/. Times are of a busy machine with two cores.
"""

from __future__ import annotations

from dataclasses import replace

from data.config import Data, Source, Tokenizer
from model.config import MLP, Attention, Block, Init, Learned, Model, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Muon, Optimizer, Schedule

CHARACTERS = 65
DATA = Data(Source("embedded:shakespeare"), Tokenizer("characters"), length=64, split="position")


def default() -> Experiment:
    """The quick start: 0.80 M parameters, 1.54 M tokens, a minute or two on a laptop's CPU.

    skald train shakespeare: 1.540 (seeds 0, 1, 2: 1.535, 1.544, 1.543), 130 to 138 seconds. Tuned on the last tenth
    of the training part.
    """
    block = Block(
        mixer=Attention(heads=4, kv_heads=4, head_width=32, rope=Rope(), query_key_norm=Norm()),
        feed_forward=MLP(width=512, activation="relu_squared"),
        token_shift=0.5,
    )
    return Experiment(
        name="shakespeare",
        model=Model(
            vocab_size=CHARACTERS,
            width=128,
            context=64,
            layers=(Stack((block,), 4),),
            embedding_norm=Norm(scale=False),
        ),
        data=DATA,
        optimizer=Optimizer(
            peak_rate=0.015,
            rule=Muon(iterations=4, adam=AdamW(beta2=0.95, weight_decay=0.0), adam_rate=0.2),
            schedule=Schedule("wsd", warmup=20, final=0.0, decay=0.5),
        ),
        steps=1000,
        batch_size=24,
        evaluation=Evaluation(every=250),
        checkpoints=Checkpoints(every=250),
    )


def quick() -> Experiment:
    """The first loss below nanoGPT's 1.898 in half a minute: 0.15 of the quick start's tokens.

    skald train shakespeare:quick: 1.867 (seeds 0, 1, 2: 1.867, 1.855, 1.878), 32 to 37 seconds from start to exit.
    """
    base = default()
    optimizer = replace(base.optimizer, schedule=replace(base.optimizer.schedule, decay=0.6))
    return replace(
        base,
        name="shakespeare:quick",
        optimizer=optimizer,
        steps=150,
        evaluation=replace(base.evaluation, every=150),
        checkpoints=replace(base.checkpoints, every=150),
    )


def nanogpt() -> Experiment:
    """nanoGPT's CPU recipe to the letter, to compare with: characters, 4 layers of 128, 2000 steps.

    skald train shakespeare:nanogpt: 1.905 (seeds 0, 1, 2: 1.905, 1.901, 1.909), 125 to 142 seconds. The same recipe in
    plain PyTorch, scored the same way on the same machine: 1.908, 1.915, 1.913.
    """
    layers, width = 4, 128
    norm = Norm("layer")  # nanoGPT's bias=False leaves norms and matrices without one
    block = Block(
        mixer=Attention(heads=4, kv_heads=4, head_width=32),
        feed_forward=MLP(width=4 * width, activation="gelu"),
        norm=norm,
    )
    return Experiment(
        name="shakespeare:nanogpt",
        model=Model(
            vocab_size=CHARACTERS,
            width=width,
            context=64,
            layers=(Stack((block,), layers),),
            positions=Learned(),
            final_norm=norm,
            init=Init(embedding=0.02, weight=0.02, residual=0.02 / (2 * layers) ** 0.5),
        ),
        data=Data(DATA.source, DATA.tokenizer, DATA.length, packing="windows", split="position"),
        optimizer=Optimizer(
            peak_rate=1e-3,
            rule=AdamW(beta1=0.9, beta2=0.99, weight_decay=0.1),
            schedule=Schedule("cosine", warmup=100, final=0.1),
        ),
        steps=2000,
        batch_size=12,
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )
