"""Scores of many short documents, against a float64 sum document by document, for every kind of tokenizer."""

import json
import math

import jax
import numpy as np
import pytest
import sentencepiece
import tiny
import tokenizers

from data.config import Source
from data.config import Tokenizer as Config
from data.store.store import open_store
from data.tokenizers.tokenizer import build_tokenizer
from data.windows import scoring_rows
from model.transformer import Transformer
from train.evaluate import add_up, metrics, sums_by_batch

LENGTH, LARGEST = 24, 600
TEXTS = [
    f"Tale {i % 7}: {who} {did}é." for i, (who, did) in enumerate([("Ada", "ran"), ("Ben", "sat"), ("東", "")] * 800)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The texts, and tokenizers trained on them: one token for both ends (json, gpt2), two, and none."""
    made = tmp_path_factory.mktemp("documents")
    (made / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (made / "lines.txt").write_text("\n".join(TEXTS))
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
    bpe.save_model(str(made))
    bpe.save(str(made / "none.json"))
    for name, special in (("shared", ["<|endoftext|>"]), ("two", ["<|endoftext|>", "<s>", "</s>"])):
        bpe.add_special_tokens(special)
        bpe.save(str(made / f"{name}.json"))
    for name, ids in (("two", {}), ("none", {"bos_id": -1, "eos_id": -1})):
        sentencepiece.SentencePieceTrainer.train(
            input=str(made / "lines.txt"), model_prefix=str(made / name), vocab_size=300, hard_vocab_limit=False,
            byte_fallback=True, minloglevel=2, **ids,
        )  # fmt: skip
    return made


KINDS = {
    "bytes": Config("bytes"),
    "characters": Config("characters"),
    "gpt2": Config("gpt2", "."),
    "json shared": Config("json", "shared.json"),
    "json two": Config("json", "two.json"),
    "json none": Config("json", "none.json"),
    "sentencepiece two": Config("sentencepiece", "two.model"),
    "sentencepiece none": Config("sentencepiece", "none.model"),
}


@pytest.fixture(scope="module")
def model():
    made = tiny.experiment(layers=1).model
    made = made.__class__(**{**vars(made), "vocab_size": LARGEST, "context": LENGTH + 30})
    return jax.jit(lambda: Transformer(made, jax.random.key(3)))()


def losses(model, rows: list[list[int]]) -> list[np.ndarray]:
    """-log p in nats, float64, of every token but the first of each row."""
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)
    read = jax.jit(lambda model, ids: model.logits(model.hidden(ids)))
    logits = np.concatenate([np.asarray(read(model, part), np.float64) for part in np.array_split(ids, 4)])
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits[:, :-1], ids[:, 1:, None], -1)[..., 0]
    all_of_them = np.log(np.exp(logits[:, :-1]).sum(-1)) - chosen
    return [row_losses[: len(row) - 1] for row_losses, row in zip(all_of_them, rows, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_bits_a_byte_are_those_of_a_sum_over_documents(monkeypatch, folder, model, kind):
    monkeypatch.chdir(folder)
    source = Source("texts.jsonl")
    tokenizer = build_tokenizer(KINDS[kind], [source])
    store = open_store(source, tokenizer, folder / "cache")
    sums = add_up(sums_by_batch(model, scoring_rows(store.documents, LENGTH, LENGTH, 256)))
    found = metrics(sums, int(store.documents.sizes.sum()))
    nats, tokens, bits, size = 0.0, 0, 0.0, 0
    encoded = [tokenizer.encode(text) for text in TEXTS]
    before = [] if tokenizer.start_id is None else [tokenizer.start_id]
    behind = [] if tokenizer.end_id is None else [tokenizer.end_id]
    rows = [[*before, *ids, *behind] for ids in encoded]
    assert max(map(len, rows)) <= LENGTH + 1, "one window each"
    for text, row, each in zip(TEXTS, rows, losses(model, rows), strict=True):
        nats, tokens = nats + each.sum(), tokens + len(each)
        bits += each[: len(each) - len(behind)].sum() / math.log(2)
        size += len(text.encode()) - (0 if before else len(tokenizer.decode(row[:1]).encode()))
    assert (found["tokens"], found["bytes"]) == (tokens, size)
    assert found["loss"] == pytest.approx(nats / tokens, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(bits / size, rel=1e-6)
    assert store.manifest["change"] is None and store.manifest["bytes"] == size
