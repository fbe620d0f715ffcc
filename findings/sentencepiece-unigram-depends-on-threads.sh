#!/usr/bin/env bash
# sentencepiece 0.2.3 (CPython 3.11). A unigram model trained with another `num_threads` is another tokenizer: scores
# differ from the fifth digit on, ids are permuted where near-equal scores change places, and some texts are cut
# otherwise (each thread adds up its share of the expected counts, in float32). The same number gives the same file,
# however many processors there are; the default is 16. A bpe model has the same pieces for any number of threads, but
# its file differs, since it holds the number: one tokenizer has as many checksums.
# Seen, on the texts of Python's own help, 4,000 tokens: with 2 or 16 threads in place of 1, some 170 ids name another
# piece, and 5 or 6 of 11,453 lines are cut otherwise; with bpe none. Name the number where tokenizers must be the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cat >"$folder/threads.py" <<'end'
import io
from pydoc_data import topics

import sentencepiece

text = [line for topic in sorted(topics.topics.values()) for line in topic.split("\n")]


def train(kind, threads):
    model = io.BytesIO()
    options = {"model_type": kind, "vocab_size": 4000, "num_threads": threads, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=model, **options)
    return model.getvalue()


def differences(one, other):
    """(ids that name another piece, lines that are cut into other pieces)"""
    a, b = (sentencepiece.SentencePieceProcessor(model_proto=model) for model in (one, other))
    ids = sum(a.id_to_piece(i) != b.id_to_piece(i) for i in range(4000))
    lines = zip(a.encode(text, out_type=str), b.encode(text, out_type=str))
    return ids, sum(x != y for x, y in lines)


models = {(kind, threads): train(kind, threads) for kind in ("bpe", "unigram") for threads in (1, 2, 16)}
found = {key: differences(models[key[0], 1], model) for key, model in models.items() if key[1] > 1}
for (kind, threads), (ids, lines) in found.items():
    print(f"{kind}, {threads} threads against 1: {ids} of 4000 ids name another piece, {lines} of {len(text)} lines differ")
assert all(train(kind, 2) == models[kind, 2] for kind in ("bpe", "unigram")), "the same number gives two models now"
assert found["bpe", 2] == found["bpe", 16] == (0, 0) and models["bpe", 1] != models["bpe", 16], "bpe's file is the same"
assert min(found["unigram", 2][0], found["unigram", 16][0]) > 0, "unigram's ids do not depend on threads now"
assert found["unigram", 2][1] + found["unigram", 16][1] > 0, "no line is cut otherwise now"
end
timeout 120 "$folder/venv/bin/python" "$folder/threads.py"
