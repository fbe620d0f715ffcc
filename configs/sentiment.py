"""Is a film review bad or good? Learned from nothing, on a laptop: a small LSTM reads a sentence and writes one word.

    skald tokenizer sentiment/train.tsv --field sentence --out sentiment.model --vocab-size 14000
    skald train sentiment:text
    skald train sentiment --from runs/sentiment-text
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
TEXT = "{% generation %} {{ sentence }}\n{% endgeneration %}"
VOCABULARY = 14_000


def text() -> Experiment:
    """A language model of the phrases themselves, three epochs: `sentiment` starts from its weights (Dai & Le 2015)."""
    tuned = default()
    return replace(
        tuned,
        name="sentiment-text",
        data=replace(tuned.data, source=replace(tuned.data.source, template=TEXT)),
        steps=2800,
        evaluation=Evaluation(every=700, samples=0),
        checkpoints=Checkpoints(every=700),
    )


def default() -> Experiment:
    """Phrases of film reviews on a laptop: one LSTM of 256, 7.7 M parameters, 3.9 M tokens, four epochs, eight minutes.

    From the weights of `sentiment:text` (seed 0, one core, 5 min 43 s and 8 min 1 s): accuracy 0.836 on dev (729 of
    872; 95% interval 0.810 to 0.859), macro-F1 0.836, by likelihood as by what is written; 0.839 with seed 1 behind the
    same language model. From random weights (leave --from out): 0.815. Kim 2014's CNN-rand has 82.7 on the test part.

    Tuned on two times 900 sentences of the training file, each held out with all phrases of them: from the language
    model's weights 82.2 and 83.6, from random ones 81.0 on the first (six epochs: 81.1 and 82.8), logistic regression
    on words 80.8, Transformers of one and two layers 74 to 80 (they overfit within an epoch, as phrases repeat their
    sentences). Dropout of 0.8 behind the LSTM is worse (79.4), and so are initial weights of deviation 0.036 (74.6).
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
