"""Any Hugging Face tokenizer.json, through the tokenizers library. data/tokenizers/tokenizer.py builds it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import tokenizers

from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources.files import expand_home
from data.tokenizers.cut_points import last_border
from data.tokenizers.json_cut_points import is_lossless, prepends, provable_borders, puts_in_front, steps
from data.tokenizers.json_token_bytes import token_bytes
from data.tokenizers.special_tokens import BoundaryToken, SpecialTokens, missing_end_notice, resolve_special_tokens

BOUNDARY_PAIRS = {  # the usual names of the tokens before and behind a document
    "<s>": "</s>",
    "<bos>": "<eos>",
    "<|begin_of_text|>": "<|end_of_text|>",
    "<|startoftext|>": "<|endoftext|>",
    "<｜begin▁of▁sentence｜>": "<｜end▁of▁sentence｜>",
    "[BOS]": "[EOS]",
    "<BOS_TOKEN>": "<EOS_TOKEN>",
}
END_TOKENS = ("<|endoftext|>", *BOUNDARY_PAIRS.values())  # tried where the start token has no end token of its own
SETTINGS = {"truncation": "cut to its first tokens", "padding": "filled up with padding"}  # of a program, not of a text
RANDOMNESS = ("dropout", "alpha", "nbest_size")  # fields of a model: the same text would get other tokens each time


class HuggingFace:
    """The tokenizer of a tokenizer.json. `content` is the file without `SETTINGS` and `RANDOMNESS`."""

    reads_ids = False

    def __init__(self, content: str, tokens: SpecialTokens, notes: tuple[str, ...] = ()):
        self.content, self.tokens, self.notes = content, tokens, notes
        self.start_id, self.end_id, self.start_prompts = tokens
        self.tokenizer = tokenizers.Tokenizer.from_str(content)
        self.added = {id_: token.content for id_, token in self.tokenizer.get_added_tokens_decoder().items()}
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1  # not their count: added tokens may leave holes
        parts = json.loads(content)
        model = parts["model"]
        self.unknown_id, self.drops_unknown = unknown_id(model, self.tokenizer), drops_unknown(model)
        self.lossless, self.borders = is_lossless(parts), provable_borders(parts, self.tokenizer)
        self.without_prefix = without_prefix(parts)
        self.has_cut_points, self.prepends = bool(self.borders), prepends(steps(parts.get("normalizer")))

    def encode(self, text: str) -> list[int]:
        """The ids of a text. A special token written out in it becomes that token, as everywhere with such files."""
        ids = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids  # fast: without offsets
        if self.unknown_id in ids or (self.drops_unknown and self.decode(ids) != text):
            self.check_coverage(text, self.tokenizer.encode(text, add_special_tokens=False))
        return ids

    def encode_array(self, text: str, continued: bool = False) -> np.ndarray:
        if continued and self.prepends:  # the mark that is put in front of a text stands for the space at the cut
            text = text.removeprefix(" ")
        return np.array(self.encode(text), np.int32)

    def encode_behind(self, text: str, before: str | BoundaryToken) -> np.ndarray:
        """Behind an added token, the ids that the library has there: it may put a space in front of a text again."""
        ids, token = self.encode(text), self.added_token_at_end(before)
        if token is not None and (whole := self.encode(self.added[token] + text))[:1] == [token]:
            return np.array(whole[1:], np.int32)
        if self.without_prefix:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            first = next((i for i, id_ in enumerate(encoding.ids) if id_ in self.added), len(encoding.ids))
            start = encoding.offsets[first][0] if first < len(encoding.ids) else len(text)
            in_front = self.without_prefix.encode(text[:start], add_special_tokens=False).ids
            ids = [*in_front, *encoding.ids[first:]]
        return np.array(ids, np.int32)

    def added_token_at_end(self, before: str | BoundaryToken) -> int | None:
        """The id of the added token that a text ends with, or that stands there."""
        if isinstance(before, BoundaryToken):
            id_ = before.id_of(self)
            return id_ if id_ in self.added else None
        found = [id_ for id_, content in self.added.items() if content and before.endswith(content)]
        return max(found, key=lambda id_: len(self.added[id_]), default=None)

    def last_cut(self, text: str) -> int:
        """A Unigram model that is given a text as a whole sums its scores from the text's beginning on. Of two ways to
        divide a word whose scores are equal up to rounding it may take the other one: the ids are those of the parts.
        """
        return last_border(text, self.borders)

    def check_coverage(self, text: str, encoding: tokenizers.Encoding) -> None:
        """Raises DataError naming the first character that became the unknown token, or no token at all.

        White space and control characters may be missing: normalizers leave them out.
        """
        covered, lost = np.zeros(len(text) + 1, np.int64), []
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            covered[start] += 1
            covered[stop] -= 1
            if token == self.unknown_id and text[start:stop] != self.tokenizer.id_to_token(token):
                lost.append((start, stop))
        uncovered = map(int, np.flatnonzero(np.cumsum(covered)[:-1] == 0))
        lost += [(i, i + 1) for i in uncovered if text[i].isprintable() and not text[i].isspace()]
        if lost:
            raise DataError(
                f"{self.describe_unknown(text, *min(lost))} is none that the tokenizer knows; one with all bytes in "
                "its vocabulary knows every text"
            )

    def describe_unknown(self, text: str, start: int, stop: int) -> str:
        """Names the character that the tokenizer does not know, given the offsets where a loss was noticed.

        A dropped character moves the offsets of what follows in its word, so that character may stand before `start`:
        the search begins at the start of the word. Where each character is known by itself,
        text[start:stop] is named.
        """
        word_start = max(text.rfind(space, 0, start) for space in " \n\t") + 1
        for offset in range(word_start, stop):
            ids = self.tokenizer.encode(text[offset], add_special_tokens=False).ids
            if not ids or self.unknown_id in ids:
                return f"character {text[offset]!r} (U+{ord(text[offset]):04X}) at offset {offset}"
        return f"{text[start:stop]!r} at offset {start}"

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def first_token_bytes(self, text: str) -> int:
        (_, stop), *others = self.tokenizer.encode(text, add_special_tokens=False).offsets or [(0, 0)]
        stop = min([stop, *(start for start, _ in others[:1])])  # a character of several tokens belongs to the last
        return len(text[:stop].encode("utf-8"))

    def token_bytes(self) -> list[bytes | None]:
        return token_bytes(json.loads(self.content), self.tokenizer)

    def to_json(self) -> dict:
        return {"kind": "json", "content": self.content, **self.tokens._asdict()}


def load(config: Config) -> HuggingFace:
    file = expand_home(config.path)
    if not file.is_file():
        raise DataError(f"{file}: no such file; a json tokenizer's path is a Hugging Face tokenizer.json")
    try:
        content, notes = strip_settings(file)
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for whatever it can't parse
        raise DataError(f"{file}: not a tokenizer.json ({error})") from None
    tokens = resolve_special_tokens(config, file, tokenizer.token_to_id, *boundary_ids(tokenizer))
    return HuggingFace(content, tokens, (*notes, *missing_end_notice(file, tokens)))


def strip_settings(file: Path) -> tuple[str, list[str]]:
    """The content of a file without `SETTINGS` and `RANDOMNESS`, and a note on each that it asked for."""
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
    """The ids of start and end token: those that the file puts around a text, else special tokens with usual names."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    encoding = tokenizer.encode("a")
    start = encoding.tokens[0] if encoding.special_tokens_mask[:1] == [1] else None
    end = encoding.tokens[-1] if encoding.special_tokens_mask[1:][-1:] == [1] else None
    start = start or next(filter(special.__contains__, BOUNDARY_PAIRS), None)
    end = end or next(filter(special.__contains__, (BOUNDARY_PAIRS.get(start), *END_TOKENS)), None)
    return tuple(name and tokenizer.token_to_id(name) for name in (start, end))


def without_prefix(content: dict) -> tokenizers.Tokenizer | None:
    """The tokenizer of a file, but that it puts nothing in front of a text; None where the file's own does not."""
    changed = copy.deepcopy(content)
    normalizer, pre_tokenizer = steps(changed.get("normalizer")), steps(changed.get("pre_tokenizer"))
    if not puts_in_front(normalizer, pre_tokenizer):
        return None
    for step in normalizer:
        if step["type"] == "Prepend":
            step.clear()
            step.update({"type": "Sequence", "normalizers": []})
    for step in pre_tokenizer:
        if step["type"] == "Metaspace":
            step.pop("add_prefix_space", None)
            step["prepend_scheme"] = "never"
        elif "add_prefix_space" in step:
            step["add_prefix_space"] = False
    return tokenizers.Tokenizer.from_str(json.dumps(changed))


def unknown_id(model: dict, tokenizer: tokenizers.Tokenizer) -> int | None:
    """The id of the unknown token, which stands for all that the vocabulary has no token for; None: there is none."""
    unknown_token = model.get("unk_token")
    return model.get("unk_id") if unknown_token is None else tokenizer.token_to_id(unknown_token)


def drops_unknown(model: dict) -> bool:
    """Whether the model drops what its vocabulary lacks, as byte-pair models without an unknown token do."""
    if "merges" not in model or model.get("unk_token") or model.get("byte_fallback"):
        return False
    return not set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()


def from_json(stored: dict) -> HuggingFace:
    return HuggingFace(stored["content"], SpecialTokens(*(stored[name] for name in SpecialTokens._fields)))
