#!/usr/bin/env bash
# tokenizers 0.23.3 (CPython 3.11). A BPE tokenizer without an unknown token encodes a character that its vocabulary
# lacks to nothing, without an error or a warning; a byte-level one is such a tokenizer where its trainer was not given
# `initial_alphabet=ByteLevel.alphabet()`. And the tokens behind it in the same word get offsets that are too small by
# its length: they point at other characters than the tokens stand for, so offsets can't be used to find what was lost.
# Seen: "the Zcat" becomes t h e Ġ c at; 'c' claims character 4, the lost Z, and 'at' claims 5 to 7, "ca"; the last
# character belongs to no token. Decoded: "the cat".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat >"$folder/drop.py" <<'end'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

made = Tokenizer(models.BPE())
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.train_from_iterator(["the cat sat"] * 9, trainers.BpeTrainer(vocab_size=8, show_progress=False))
text = "the Zcat"
encoding = made.encode(text)
told = [(token, text[start:stop]) for token, (start, stop) in zip(encoding.tokens, encoding.offsets)]
back = made.decode(encoding.ids)
print(encoding.tokens, encoding.offsets, told, repr(back))
assert back == "the cat", "it tells now that Z is unknown"
assert told[-2:] == [("c", "Z"), ("at", "ca")], "offsets are others now"
end
timeout 60 "$folder/venv/bin/python" "$folder/drop.py"
