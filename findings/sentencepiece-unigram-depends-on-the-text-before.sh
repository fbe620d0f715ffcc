#!/usr/bin/env bash
# sentencepiece 0.2.3 (CPython 3.11). How a unigram model cuts a word depends on all of the text in front of it, though
# no piece crosses a space. The score of a way to cut the text is summed up in float32 from the start of the text; ways
# to cut one word that are equal (the same pieces in another order), or nearly so, are told apart by how that sum happens
# to round, and the sum is another one after other words. So a document encoded from another start, or in parts cut at
# spaces, has other ids here and there than the whole: a cache of ids is only the same where the borders are the same.
# A bpe model has no such sum: none of its words changes.
# Seen, trained on the texts of Python's own help: behind "the " * n, n from 0 to 399, xlll is mostly cut into x l ll,
# but for 3 values of n into x ll l (1,000 pieces; for 6 of n with 4,000). In that help itself, encoded as one text, 15
# of 65,501 words are cut otherwise than alone ("since": s i nce, alone s in ce); with 4,000 pieces 7; with bpe 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cat >"$folder/before.py" <<'end'
import collections
import io
from pydoc_data import topics

import sentencepiece

lines = [line for topic in sorted(topics.topics.values()) for line in topic.split("\n")]
words = " ".join(lines).split()


def train(kind, size):
    model = io.BytesIO()
    options = {"model_type": kind, "vocab_size": size, "num_threads": 1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def cuts(processor, text):
    """The pieces of each word of the text: a word begins at each U+2581."""
    pieces = " ".join(processor.encode(text, out_type=str))
    return [word.split() for word in pieces.replace("\u2581", "\n\u2581").split("\n")[1:]]


def last_cuts(processor, word):
    """{how the word is cut: for how many n from 0 to 399}, behind "the " * n"""
    return collections.Counter(" ".join(cuts(processor, "the " * n + word)[-1]) for n in range(400))


def differences(processor):
    """(word as cut in the whole text, and alone) where the two differ"""
    whole = cuts(processor, " ".join(words))
    alone = processor.encode(words, out_type=str)
    assert len(whole) == len(words), "a piece crosses a space"
    return [(w, a) for w, a in zip(whole, alone) if w != a]


for kind, size in (("unigram", 1000), ("unigram", 4000), ("bpe", 1000)):
    processor = train(kind, size)
    ways, changed = last_cuts(processor, "xlll"), differences(processor)
    print(f"{kind}, {size} pieces: xlll: {dict(ways)}; {len(changed)} of {len(words)} words otherwise, {changed[:1]}")
    if kind == "bpe":
        assert len(ways) == 1 and not changed, "bpe depends on the text before as well now"
    else:
        assert len(ways) > 1 and changed, "unigram does not depend on the text before now"
end
timeout 120 "$folder/venv/bin/python" "$folder/before.py"
