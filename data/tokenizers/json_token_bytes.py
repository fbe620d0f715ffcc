"""The bytes that each token of a Hugging Face tokenizer.json adds to a text.

data/tokenizers/huggingface_json.py asks.
"""

from __future__ import annotations

import re

import tokenizers

from data.tokenizers.gpt2_bpe import byte_decoder

SPACE_MARK = "▁"  # how such files write a space, where they have no bytes


def token_bytes(content: dict, tokenizer: tokenizers.Tokenizer) -> list[bytes | None]:
    """Bytes by id; None for special tokens, ids without a token, and tokens that the decoder writes in another way."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    kinds = {step["type"] for step in decoder_steps(content.get("decoder"))}
    spelled: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, id_ in vocabulary.items():
        if id_ in added:
            spelled[id_] = None if added[id_].special else token.encode("utf-8")
        else:
            spelled[id_] = spell(token, kinds)
    for id_ in misspelled(spelled, tokenizer):
        spelled[id_] = None
    return spelled


def decoder_steps(part: dict | None) -> list[dict]:
    """The steps of a decoder, sequences laid out."""
    if part is None:
        return []
    return [step for one in part.get("decoders", []) for step in decoder_steps(one)] or [part]


def spell(token: str, kinds: set[str]) -> bytes | None:
    """The bytes of a token, by the kinds of steps that its decoder has."""
    if "ByteLevel" in kinds:
        byte_of = byte_decoder()
        return bytes(byte_of[c] for c in token) if byte_of.keys() >= set(token) else None
    if "ByteFallback" in kinds and re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE_MARK, " ").encode("utf-8")


def misspelled(spelled: list[bytes | None], tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Tokens that the tokenizer itself decodes to another text, behind a word.

    Where a token is no text by itself, as half a character, its bytes are taken as they are.
    """
    texts = {id_: text for id_, token in enumerate(spelled) if token and (text := decode_whole(token)) is not None}
    word = next((id_ for id_, text in texts.items() if re.fullmatch("[a-z]+", text)), None)
    if word is None:
        return list(texts)
    decoded = tokenizer.decode_batch([[word, id_] for id_ in texts], skip_special_tokens=False)
    return [id_ for (id_, text), found in zip(texts.items(), decoded, strict=True) if found != texts[word] + text]


def decode_whole(token: bytes) -> str | None:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return None
