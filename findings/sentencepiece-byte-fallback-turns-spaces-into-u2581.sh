#!/usr/bin/env bash
# sentencepiece 0.2.3 (CPython 3.11). `byte_fallback=True` is there so that every text survives: a character that the
# vocabulary lacks is spelled out in bytes, and decode puts it together again. The space is not kept. A model trained
# with add_dummy_prefix=False on text without a space (Chinese, here) has no piece for it. Encoding writes a space as
# U+2581 first, and falls back to the three bytes of that character; decoding turns the piece U+2581 into a space, but
# not the bytes: "学 而" comes back as "学▁而", in bpe and in unigram, without an error or a warning.
# The default add_dummy_prefix=True hides it: U+2581 is then in front of each line that it learns from, so it is a piece.
# What helps: required_chars="\u2581". required_chars=" " does not: the trainer stops at it. A user-defined symbol " " is
# taken without a word, and changes nothing.
# Seen, for bpe and unigram alike, of "学 而x":
#   add_dummy_prefix=False                         学 <0xE2> <0x96> <0x81> 而 <0x78>   decoded "学▁而x"
#   the same with user_defined_symbols=[" "]       as before                           decoded "学▁而x"
#   the same with required_chars="\u2581"          学 ▁ 而 <0x78>                      decoded "学 而x"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cat >"$folder/space.py" <<'end'
import io

import sentencepiece

lines = ["学而时习之不亦说乎有朋自远方来不亦乐乎", "吾十有五而志于学三十而立四十而不惑五十而知天命"] * 20
text, fallen = "学 而x", ["学", "<0xE2>", "<0x96>", "<0x81>", "而", "<0x78>"]


def pieces_and_back(kind, **options):
    """The pieces of the text in a model trained with these options, and the text that they decode to."""
    exact = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    small = {"vocab_size": 330, "hard_vocab_limit": False, "byte_fallback": True, "minloglevel": 2}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type=kind, **{**exact, **small, **options}
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return processor.encode(text, out_type=str), processor.decode(processor.encode(text))


cases = {"no space": {}, "symbol": {"user_defined_symbols": [" "]}, "required": {"required_chars": "\u2581"}}
for kind in ("bpe", "unigram"):
    found = {name: pieces_and_back(kind, **options) for name, options in cases.items()}
    for name, (pieces, back) in found.items():
        print(f"{kind}, {name}: {' '.join(pieces)}, decoded {back!r}")
    assert found["no space"] == found["symbol"] == (fallen, "学\u2581而x"), "a space is kept now"
    assert found["required"] == (["学", "\u2581", "而", "<0x78>"], text), "required_chars no longer helps"
    assert pieces_and_back(kind, add_dummy_prefix=True)[1] == text, "the default loses it as well now"
end
timeout 60 "$folder/venv/bin/python" "$folder/space.py"
