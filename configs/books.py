"""A folder of novels, in pieces of words: from plain text to a model that writes, on a laptop.

    skald tokenizer novels --out books.model
    skald train books --set data.source.path=novels
    skald generate runs/books --prompt "It was"

The last fiftieth of the text is for validation. For novels of their own, in a folder `held-out`:

    --set data.validation_source.path=held-out --set data.train=null --set data.validation=null

Figures are of 26 novels in English, 37.7 MB, on two cores that other work kept busy too. The tokenizer: 10 seconds and
0.5 GiB; 3.84 bytes a token, 3.70 on two other novels (unigram in place of bpe: 3.70 there, 13 times the time to train).
Rates are those of configs/shakespeare.py: nothing was tuned here.
"""

from __future__ import annotations

from dataclasses import replace

from data.config import Data, Source, Span, Tokenizer
from model.config import MLP, Attention, Block, Model, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Muon, Optimizer, Schedule

VOCABULARY = 8192


def default() -> Experiment:
    """A folder of novels on a laptop: 10 M parameters, 8,192 pieces of words, about an hour.

    skald train books (seed 0), with two other novels as validation: 16.4 M tokens, the 26 novels 1.6 times; 3.917 nats
    a token, 1.529 bits a byte; 64 minutes at 4,800 tokens a second beside other work, 5,350 on two quiet cores.
    """
    block = Block(
        mixer=Attention(heads=5, kv_heads=5, head_width=64, rope=Rope(), query_key_norm=Norm()),
        feed_forward=MLP(width=1280, activation="relu_squared"),
        token_shift=0.5,
    )
    return Experiment(
        name="books",
        model=Model(
            vocab_size=VOCABULARY,
            width=320,
            context=256,
            layers=(Stack((block,), 4),),
            embedding_norm=Norm(scale=False),
            tied=False,
        ),
        data=Data(
            Source("novels"),
            Tokenizer("sentencepiece", "books.model"),
            length=256,
            split="position",
            train=Span(0.0, 0.98),
            validation=Span(0.98, 1.0),
        ),
        optimizer=Optimizer(
            peak_rate=0.015,
            rule=Muon(iterations=4, adam=AdamW(beta2=0.95, weight_decay=0.0), adam_rate=0.2),
            schedule=Schedule("wsd", warmup=20, final=0.0, decay=0.5),
        ),
        steps=4000,
        batch_size=16,
        evaluation=Evaluation(every=500, prompt="It was"),
        checkpoints=Checkpoints(every=250),
        steps_per_dispatch=1,  # a step takes a second or two: the first loss and the answer to Ctrl-C come at once
    )


def quick() -> Experiment:
    """A first look at the same model: 0.05 of the tokens, a few minutes.

    skald train books:quick (seed 0): 5.233 nats a token, 2.042 bits a byte on the first twentieth of two other novels,
    12 minutes at 300 to 1,300 tokens a second beside other work. The first step's loss is 9.47.
    """
    base = default()
    return replace(
        base,
        name="books:quick",
        steps=150,
        batch_size=8,
        evaluation=replace(base.evaluation, every=150),
        checkpoints=replace(base.checkpoints, every=150),
    )
