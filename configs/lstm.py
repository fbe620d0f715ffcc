"""Long short-term memory, the language model before the Transformer (Hochreiter & Schmidhuber 1997; Graves 2013): the
historic baseline beside `shakespeare`, on the same text, trained and decoded by the same loops.

    skald train lstm

Losses are nats a token over the whole validation split, in windows of 64 that do not overlap; a state starts anew in
each.
"""

from __future__ import annotations

from dataclasses import replace

from configs import shakespeare
from data.config import Data, Source, Tokenizer
from model.config import LSTM, Block, Init, Model, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule


def lstm(layers: int, width: int, vocab_size: int, context: int, dropout: float, init: Init) -> Model:
    """Layers of LSTMs and nothing else, one on the other; dropout between them, never along time (Zaremba et al. 2014).
    Embedding and output have tables of their own."""
    return Model(
        vocab_size=vocab_size,
        width=width,
        context=context,
        layers=(Stack((Block(LSTM(), None, placement="plain", dropout=dropout),), layers),),
        final_norm=None,
        tied=False,
        dropout=dropout,
        init=init,
    )


def default() -> Experiment:
    """The quick start's text and tokens with an LSTM: two layers of 220, 0.80 M parameters.

    skald train lstm: 1.605 (seed 0). The Transformer of `shakespeare` comes to 1.515 in as many tokens, nanoGPT's
    recipe to 1.905 (`shakespeare:nanogpt`). Tuned on the last tenth of the training part at 0.3 of the tokens: 12 rows
    a step are better than 24 (1.692, 1.724), AdamW than Muon (1.724, 1.735), rates of 0.008 than 0.003 and 0.015
    (1.724, 1.800, 1.726), two layers as good as one of 312 (1.727). Initial weights of deviation 1 / sqrt(width) are
    better than of 1 / sqrt(3 width), as PyTorch draws them (1.724, 1.845); orthogonal recurrent ones (1.722) and
    dropout of 0.1 on the embedding (1.695 to 1.692) change nothing.
    """
    return replace(
        shakespeare.default(),
        name="lstm",
        model=lstm(2, 220, shakespeare.CHARACTERS, 64, dropout=0.0, init=Init(embedding=1.0)),
        optimizer=Optimizer(
            peak_rate=0.008,
            rule=AdamW(weight_decay=0.0),
            schedule=Schedule("wsd", warmup=20, final=0.0, decay=0.5),
        ),
        steps=2000,
        batch_size=12,
        evaluation=Evaluation(every=500),
        checkpoints=Checkpoints(every=500),
    )


def medium() -> Experiment:
    """Zaremba et al. 2014's medium model of words: two layers of 650, half dropped out. Untrained here."""
    base, deviation = default(), 0.05 / 3**0.5  # they draw evenly from -0.05 to 0.05
    model = lstm(2, 650, 10_000, 35, dropout=0.5, init=Init(embedding=deviation, weight=deviation))
    return replace(
        base,
        name="lstm:medium",
        model=model,
        data=Data(Source("text"), Tokenizer("sentencepiece", "words.model"), length=35),
        optimizer=Optimizer(peak_rate=0.002, rule=AdamW(weight_decay=0.0), clip=5.0),
        steps=50_000,
        batch_size=20,
        evaluation=Evaluation(every=2000, prompt="The"),
        checkpoints=Checkpoints(every=2000),
    )
