"""Characters of Shakespeare: the quick start. tinyshakespeare ships with the project, nothing is downloaded.

    bash launch/local.sh train shakespeare

Losses are nats a token over the whole validation split (the text's last tenth), in windows of 64 that do not overlap;
figures are means of three seeds, with their curves in configs/curves/. Times are of machines with two cores.
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

    skald train shakespeare: 1.515 (seeds 0, 1, 2: 1.510, 1.518, 1.517), 84 seconds with AVX-512's bfloat16.
    Tuned on the last tenth of the training part.
    """
    return Experiment(
        name="shakespeare",
        model=transformer(MLP(width=340, activation="silu", gated=True), Init()),
        data=DATA,
        optimizer=Optimizer(
            peak_rate=0.018,
            rule=Muon(momentum=0.9, iterations=4, adam=AdamW(beta2=0.95, weight_decay=0.0), adam_rate=0.2),
            schedule=Schedule("wsd", warmup=20, final=0.0, decay=0.5),
        ),
        steps=2000,
        batch_size=12,
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )


def transformer(feed_forward: MLP, init: Init) -> Model:
    """Four layers of 128, with rotary positions, normed queries and keys, and half of each branch's input from the
    character before."""
    block = Block(
        mixer=Attention(heads=4, kv_heads=4, head_width=32, rope=Rope(), query_key_norm=Norm()),
        feed_forward=feed_forward,
        token_shift=0.5,
    )
    return Model(
        vocab_size=CHARACTERS,
        width=128,
        context=64,
        layers=(Stack((block,), 4),),
        tied=False,
        embedding_norm=Norm(scale=False),
        init=init,
    )


def quick() -> Experiment:
    """A loss below nanoGPT's 1.898 in ten seconds: 0.065 of the quick start's tokens, at a higher rate.

    skald train shakespeare:quick: 1.863 (seeds 0, 1, 2: 1.875, 1.854, 1.859), 9.8 to 12.3 seconds from start to exit
    with AVX-512's bfloat16.
    """
    base = default()
    rule = replace(base.optimizer.rule, momentum=0.85, adam_rate=0.3)
    schedule = Schedule("wsd", warmup=2, final=0.0, decay=0.8)
    return replace(
        base,
        name="shakespeare:quick",
        model=transformer(MLP(width=512, activation="relu_squared"), Init(embedding=0.1)),  # a little faster than gated
        optimizer=replace(base.optimizer, peak_rate=0.04, rule=rule, schedule=schedule),
        steps=130,
        evaluation=replace(base.evaluation, every=130),
        checkpoints=replace(base.checkpoints, every=130),
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
