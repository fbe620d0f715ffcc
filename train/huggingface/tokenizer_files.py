"""A tokenizer as the files from which transformers' AutoTokenizer makes one that gives the same ids.

launch/inference/export.py writes them beside the weights.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping

import tokenizers

from data.tokenizers.gpt2_bpe import END_OF_TEXT, byte_decoder
from data.tokenizers.tokenizer import Tokenizer

CONFIG = "tokenizer_config.json"
BY_FILE = "PreTrainedTokenizerFast"  # transformers' class that does what the file says, and adds nothing of its own
CHARACTER_OF = {byte: character for character, byte in byte_decoder().items()}


def tokenizer_files(tokenizer: Tokenizer, imported: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The contents of the files by name. Texts of files that were `imported` with the tokenizer are given back.

    Token ids (kind `ids`) have no files.
    """
    stored = tokenizer.to_json()
    own = WRITERS[stored["kind"]](tokenizer, stored) if stored["kind"] in WRITERS else {}
    return own | {name: text.encode() for name, text in (imported or {}).items()}


def json_files(tokenizer: Tokenizer, stored: dict) -> dict[str, bytes]:
    """A tokenizer.json as it was read; but what it puts around a text is what our prompts have around them."""
    content = json.loads(stored["content"])
    theirs = tokenizers.Tokenizer.from_str(stored["content"])
    special = {id_: token.content for id_, token in theirs.get_added_tokens_decoder().items() if token.special}
    if theirs.encode("a").ids != [*prompt_start(tokenizer), *theirs.encode("a", add_special_tokens=False).ids]:
        content["post_processor"] = template(tokenizer, theirs.id_to_token)
    # Only what the file has as special tokens is named: of any other, transformers would make one that cuts texts.
    return files(content, special.get(tokenizer.start_id), special.get(tokenizer.end_id))


def gpt2_files(tokenizer: Tokenizer, stored: dict) -> dict[str, bytes]:
    """vocab.json and merges.txt, and a tokenizer.json: transformers adds a start token only where that one says so."""
    ranks = {bytes.fromhex(token): id_ for id_, token in enumerate(stored["tokens"]) if token is not None}
    vocabulary = {readable(token): id_ for token, id_ in ranks.items()} | {END_OF_TEXT: stored["end_id"]}
    merges = [tuple(map(readable, last_merge(token, ranks))) for token in ranks if len(token) > 1]
    built = byte_level(vocabulary, merges, use_regex=True)
    built.add_special_tokens([tokenizers.AddedToken(END_OF_TEXT, normalized=False)])
    content = json.loads(built.to_str())
    content["post_processor"] = template(tokenizer, built.id_to_token)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    found = {"vocab.json": as_json(vocabulary), "merges.txt": ("\n".join(lines) + "\n").encode()}
    return found | files(content, END_OF_TEXT, END_OF_TEXT, "GPT2Tokenizer", add_bos_token=tokenizer.start_prompts)


def sentencepiece_files(tokenizer: Tokenizer, stored: dict) -> dict[str, bytes]:
    """The model itself, which transformers turns into a tokenizer of its own."""
    piece = tokenizer.processor.id_to_piece
    start, end = (None if id_ is None else piece(id_) for id_ in (tokenizer.start_id, tokenizer.end_id))
    unknown = {"unk_token": piece(tokenizer.processor.unk_id())}
    config = token_names(start, end) | unknown | {"add_bos_token": tokenizer.start_prompts, "add_eos_token": False}
    config = {"tokenizer_class": BY_FILE} | config | {"clean_up_tokenization_spaces": False}
    return {"tokenizer.model": base64.b64decode(stored["model"]), CONFIG: as_json(config)}


def character_files(tokenizer: Tokenizer, stored: dict) -> dict[str, bytes]:
    """Byte-pair encoding without a merge, over characters."""
    del tokenizer  # has no special tokens
    alphabet = {character: id_ for id_, character in enumerate(stored["alphabet"])}
    built = tokenizers.Tokenizer(tokenizers.models.BPE(alphabet, []))
    built.decoder = tokenizers.decoders.Fuse()
    return files(json.loads(built.to_str()), None, None)


def byte_files(tokenizer: Tokenizer, stored: dict) -> dict[str, bytes]:
    """Byte-pair encoding without a merge, over bytes."""
    del tokenizer, stored  # all of this kind are one
    built = byte_level({character: byte for byte, character in CHARACTER_OF.items()}, [], use_regex=False)
    return files(json.loads(built.to_str()), None, None)


WRITERS: dict[str, Callable[[Tokenizer, dict], dict[str, bytes]]] = {
    "json": json_files,
    "gpt2": gpt2_files,
    "sentencepiece": sentencepiece_files,
    "characters": character_files,
    "bytes": byte_files,
}


def files(content: dict, start: str | None, end: str | None, kind: str = BY_FILE, **settings) -> dict[str, bytes]:
    """A tokenizer.json, and the configuration that goes with it."""
    config = {"tokenizer_class": kind} | token_names(start, end) | settings | {"clean_up_tokenization_spaces": False}
    return {"tokenizer.json": as_json(content), CONFIG: as_json(config)}


def token_names(start: str | None, end: str | None) -> dict[str, str]:
    """The settings that name the tokens before and behind a text, without those that are not there."""
    return {name: token for name, token in (("bos_token", start), ("eos_token", end)) if token is not None}


def prompt_start(tokenizer: Tokenizer) -> list[int]:
    """The ids in front of a prompt."""
    return [tokenizer.start_id] if tokenizer.start_prompts and tokenizer.start_id is not None else []


def template(tokenizer: Tokenizer, id_to_token: Callable[[int], str]) -> dict | None:
    """The post-processor of a tokenizer.json that puts the start token in front of a text, where prompts have it."""
    starts = {id_to_token(id_): id_ for id_ in prompt_start(tokenizer)}
    if not starts:
        return None
    tokens = [{"SpecialToken": {"id": token, "type_id": 0}} for token in starts]
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*tokens, one],
        "pair": [*tokens, one, other],
        "special_tokens": {token: {"id": token, "ids": [id_], "tokens": [token]} for token, id_ in starts.items()},
    }


def byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]], use_regex: bool) -> tokenizers.Tokenizer:
    """Byte-pair encoding over bytes, each written as one printable character; `use_regex`: GPT-2 splits text first."""
    built = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    built.decoder = tokenizers.decoders.ByteLevel()
    return built


def last_merge(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that are merged into this one: what merging its bytes with the earlier merges leaves."""
    parts, rank = [bytes([byte]) for byte in token], ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, rank) for left, right in itertools.pairwise(parts)]
        first = pairs.index(min(pairs))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def readable(token: bytes) -> str:
    """A token as GPT-2's files write it."""
    return "".join(CHARACTER_OF[byte] for byte in token)


def as_json(value) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
