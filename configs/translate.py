"""English to German, from nothing, on a laptop: supervised training of a small model on pairs of sentences.

    skald tokenizer translation/train.en translation/train.de --out translation.model --vocab-size 6000
    skald train translate
    skald evaluate runs/translate --tasks translation --set 'translation.data=translation/test_2016_flickr.{en,de}'
    skald generate runs/translate --prompt $'A dog runs on the beach.\\n' --sampler beam=5

`translation` is a folder with `train.en`, `train.de`, `val.en` and `val.de`: files of lines, as those of Multi30k
(Elliott et al. 2016; 29,000 pairs of captions). The English sentence is the prompt; the German one alone counts in the
loss.
"""

from __future__ import annotations

from data.config import Data, Source, Tokenizer
from model.config import MLP, Attention, Block, Model, Norm, Rope, Stack
from train.config import AdamW, Checkpoints, Evaluation, Experiment, Muon, Optimizer, Schedule

PAIR = "{{ en }}\n{% generation %}{{ de }}{% endgeneration %}"


def default() -> Experiment:
    """Captions from English to German on a laptop: 2.9 M parameters, 9.0 M tokens, 9.6 epochs, eleven minutes.

    skald train translate (seed 0): BLEU 37.94 and chrF 62.45 on test_2016_flickr (sacrebleu 2.6, 13a, mixed case, beam
    of 5), 10 min 37 s with two cores and AVX-512's bfloat16. First values tried; nothing was tuned.
    """
    block = Block(
        mixer=Attention(heads=6, kv_heads=6, head_width=32, rope=Rope(), query_key_norm=Norm()),
        feed_forward=MLP(width=768, activation="relu_squared"),
        token_shift=0.5,
        dropout=0.2,
    )
    return Experiment(
        name="translate",
        model=Model(
            vocab_size=6000,
            width=192,
            context=128,
            layers=(Stack((block,), 4),),
            embedding_norm=Norm(scale=False),
            dropout=0.2,
        ),
        data=Data(
            Source("translation/train.{en,de}", template=PAIR),
            Tokenizer("sentencepiece", "translation.model"),
            length=128,
            packing="best_fit",
            validation_source=Source("translation/val.{en,de}", template=PAIR),
        ),
        optimizer=Optimizer(
            peak_rate=0.015,
            rule=Muon(iterations=4, adam=AdamW(beta2=0.98, weight_decay=0.0), adam_rate=0.2),
            schedule=Schedule("wsd", warmup=50, final=0.0, decay=0.6),
        ),
        steps=3000,
        batch_size=24,
        evaluation=Evaluation(every=1000, prompt="Two men are standing outside.\n", sampler="greedy", sample_tokens=40),
        checkpoints=Checkpoints(every=1000),
    )
