"""Is a film review bad or good? Learned from nothing, on a laptop: a small LSTM reads a sentence and writes one word.

    skald tokenizer sentiment/train.tsv --field sentence --out sentiment.model --vocab-size 14000
    skald train sentiment
    skald evaluate runs/sentiment --tasks sentiment --set sentiment.data=sentiment/dev.tsv

`sentiment` is a folder with `train.tsv` and `dev.tsv`: SST-2 (Socher et al. 2013) as GLUE has it: 67,349 phrases, 872
sentences, a `label` of 0 or 1 beside each. The text is the prompt; the word alone counts in the loss.
"""

from __future__ import annotations

from dataclasses import replace

from configs.lstm import lstm
from data.config import Data, Source, Span, Tokenizer
from model.config import Init
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Optimizer, Schedule

# A space in front: a word at the beginning is the token that it is within a sentence.
REVIEW = " {{ sentence }}\n{% generation %} {{ {'0': 'bad', '1': 'good'}[label | string] }}{% endgeneration %}"
VOCABULARY = 14_000


def default() -> Experiment:
    """Phrases of film reviews on a laptop: one LSTM of 256, 7.7 M parameters, 3.9 M tokens, four epochs, eight minutes.

    skald train sentiment (seed 0): accuracy 0.815 on dev (711 of 872; 95% interval 0.788 to 0.840), macro-F1 0.815, by
    likelihood as by what is written; 7 min 54 s on one core. Kim 2014's CNN-rand has 82.7 on the test part. Tuned on
    900 sentences of the training file, held out with all phrases of them: there it has 81.0, logistic regression on
    words 80.8, Transformers of one and two layers 74 to 80 (they overfit within an epoch, as phrases repeat their
    sentences). Dropout of 0.8 behind the LSTM is worse (79.4), and so are initial weights of deviation 0.036 (74.6);
    six epochs in place of four are no better (81.1).
    """
    return Experiment(
        name="sentiment",
        model=replace(lstm(1, 256, VOCABULARY, 128, dropout=0.6, init=Init(embedding=0.02)), dropout=0.7),
        data=Data(
            Source("sentiment/train.tsv", template=REVIEW),
            Tokenizer("sentencepiece", "sentiment.model"),
            length=128,
            packing="best_fit",
            train=Span(0.0, 0.98),
            validation=Span(0.98, 1.0),
        ),
        optimizer=Optimizer(
            peak_rate=0.001,
            rule=AdamW(beta2=0.98, weight_decay=0.1),
            schedule=Schedule("linear", warmup=100, final=0.0),
        ),
        steps=3800,
        batch_size=8,
        evaluation=Evaluation(every=950, samples=0),
        checkpoints=Checkpoints(every=950),
    )
