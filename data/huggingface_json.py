"""Any Hugging Face tokenizer.json, through the tokenizers library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tokenizers

from data.config import Tokenizer as Config
from data.errors import DataError
from data.files import expand_home
from data.special_tokens import SpecialTokens, missing_end_notice, resolve

PAIRS = {  # the usual names of the tokens before and behind a document
    "<s>": "</s>",
    "<bos>": "<eos>",
    "<|begin_of_text|>": "<|end_of_text|>",
    "<|startoftext|>": "<|endoftext|>",
    "<｜begin▁of▁sentence｜>": "<｜end▁of▁sentence｜>",
    "[BOS]": "[EOS]",
    "<BOS_TOKEN>": "<EOS_TOKEN>",
}
ENDS = ("<|endoftext|>", *PAIRS.values())  # where the start has none of its own
SETTINGS = {"truncation": "cut to its first tokens", "padding": "filled up with padding"}  # of a program, not of a text
RANDOMNESS = ("dropout", "alpha", "nbest_size")  # a model's: the same text would get other tokens each time


class HuggingFace:
    """`content` is the file without `SETTINGS` and `CHANCE`."""

    def __init__(self, content: str, tokens: SpecialTokens, notes: tuple[str, ...] = ()):
        self.content, self.tokens, self.notes = content, tokens, notes
        self.start_id, self.end_id, self.start_prompts = tokens
        self.tokenizer = tokenizers.Tokenizer.from_str(content)
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1  # not their count: added tokens may leave holes
        model = json.loads(content)["model"]
        self.unknown_id, self.drops = unknown_id(model, self.tokenizer), drops_unknown(model)

    def encode(self, text: str) -> list[int]:
        """A special token written out in a text is that token, as everywhere with such files."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        if self.unknown_id in encoding.ids or (self.drops and self.decode(encoding.ids) != text):
            self.check(text, encoding)
        return encoding.ids

    def check(self, text: str, encoding: tokenizers.Encoding) -> None:
        """Raises DataError at the first character that is an unknown token, or no token at all.

        A normalizer may leave out white space and control characters.
        """
        covered, lost = np.zeros(len(text) + 1, np.int64), []
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            covered[start] += 1
            covered[stop] -= 1
            if token == self.unknown_id and text[start:stop] != self.tokenizer.id_to_token(token):
                lost.append((start, stop))
        places = map(int, np.flatnonzero(np.cumsum(covered)[:-1] == 0))
        lost += [(i, i + 1) for i in places if text[i].isprintable() and not text[i].isspace()]
        if lost:
            raise DataError(
                f"{self.unknown(text, *min(lost))} is none that the tokenizer knows; one with all bytes in its "
                "vocabulary knows every text"
            )

    def unknown(self, text: str, start: int, stop: int) -> str:
        """The character whose loss shows at start .. stop, which may stand before it: it moves the offsets of what
        follows in its word. Where every character is known, the word."""
        first = max(text.rfind(space, 0, start) for space in " \n\t") + 1
        for place in range(first, stop):
            alone = self.tokenizer.encode(text[place], add_special_tokens=False).ids
            if not alone or self.unknown_id in alone:
                return f"character {text[place]!r} (U+{ord(text[place]):04X}) at offset {place}"
        return f"{text[start:stop]!r} at offset {start}"

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def first_bytes(self, text: str) -> int:
        (_, stop), *others = self.tokenizer.encode(text, add_special_tokens=False).offsets or [(0, 0)]
        stop = min([stop, *(start for start, _ in others[:1])])  # a character that is more tokens belongs to the last
        return len(text[:stop].encode("utf-8"))

    def to_json(self) -> dict:
        return {"kind": "json", "content": self.content, **self.tokens._asdict()}


def load(config: Config) -> HuggingFace:
    file = expand_home(config.path)
    if not file.is_file():
        raise DataError(f"{file}: no such file; a json tokenizer's path is a Hugging Face tokenizer.json")
    try:
        content, notes = without_settings(file)
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for whatever it can't parse
        raise DataError(f"{file}: not a tokenizer.json ({error})") from None
    tokens = resolve(config, file, tokenizer.token_to_id, *boundary_ids(tokenizer))
    return HuggingFace(content, tokens, (*notes, *missing_end_notice(file, tokens)))


def without_settings(file: Path) -> tuple[str, list[str]]:
    """The file's content without what whoever saved it had set for a program of theirs, and lines that say so."""
    content = json.loads(file.read_text(encoding="utf-8"))
    notes = [
        f"{file} asks that every text be {what}: not done here" for name, what in SETTINGS.items() if content.get(name)
    ]
    if any(content["model"].get(name) for name in RANDOMNESS):
        notes.append(f"{file} asks for tokens drawn by chance: not done here, a text always has the same tokens")
    content |= dict.fromkeys(SETTINGS)
    content["model"] = {k: v for k, v in content["model"].items() if k not in RANDOMNESS}
    return json.dumps(content, ensure_ascii=False), notes


def boundary_ids(tokenizer: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """The ids of start and end: what the file puts round a text, else its special tokens of the usual names."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    encoding = tokenizer.encode("a")
    start = encoding.tokens[0] if encoding.special_tokens_mask[:1] == [1] else None
    end = encoding.tokens[-1] if encoding.special_tokens_mask[1:][-1:] == [1] else None
    start = start or next(filter(special.__contains__, PAIRS), None)
    end = end or next(filter(special.__contains__, (PAIRS.get(start), *ENDS)), None)
    return tuple(name and tokenizer.token_to_id(name) for name in (start, end))


def unknown_id(model: dict, tokenizer: tokenizers.Tokenizer) -> int | None:
    """The id of what the vocabulary has no token for."""
    named = model.get("unk_token")
    return model.get("unk_id") if named is None else tokenizer.token_to_id(named)


def drops_unknown(model: dict) -> bool:
    """Whether the model makes no token at all of what its vocabulary lacks: byte pairs without an unknown token."""
    if "merges" not in model or model.get("unk_token") or model.get("byte_fallback"):
        return False
    return not set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()


def from_json(stored: dict) -> HuggingFace:
    return HuggingFace(stored["content"], SpecialTokens(*(stored[name] for name in SpecialTokens._fields)))
