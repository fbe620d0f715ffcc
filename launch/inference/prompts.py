"""Prompts as token ids: those that people write, and that of guidance. launch/inference/text.py calls it."""

from __future__ import annotations

import dataclasses
import re

from data.documents import encode_contents, what_is_before
from data.errors import DataError
from data.written_text import contents_of
from model.decode.chain import Chain
from model.decode.compositions import Guidance
from model.decode.prompts import PromptError, PromptTooLong


def encode_prompt(prompt: str, tokenizer, context: int) -> list[int]:
    """The ids of a prompt, behind the start token where the tokenizer says so. An empty prompt is that token alone.

    Raises PromptError, PromptTooLong, DataError.
    """
    ids = encode_whole_prompt(prompt, tokenizer)
    if len(ids) >= context:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens and the model was trained on {context} at a time: "
            f"{context - 1} at most leave room to write; shorten it"
        )
    return ids


def encode_whole_prompt(prompt: str, tokenizer) -> list[int]:
    """`encode_prompt` of a prompt of any length, with the tokens that a WrittenText holds.

    Raises PromptError, DataError.
    """
    if half := re.search("[\ud800-\udfff]", prompt):  # from bytes that are not UTF-8, or half a pair of JSON escapes
        raise PromptError(
            f"{half[0]!r} at offset {half.start()} of the prompt is no character; write the text as UTF-8"
        )
    ids, start = encode_contents(tokenizer, contents_of(prompt)), tokenizer.start_id
    if start is not None and ids[:1] != [start] and (tokenizer.start_prompts or not ids):
        ids = [start, *ids]
    if not ids:
        raise PromptError("the prompt is empty, and the tokenizer has no token that begins a text; write one")
    return ids


def encode_response(prompt: str, response: str, tokenizer) -> list[int]:
    """The ids of a response that is encoded apart from its prompt, as stores have them. Raises DataError."""
    before = None
    for content in contents_of(prompt):
        before = what_is_before(content, before, tokenizer)
    return encode_contents(tokenizer, [response], before)


def encode_guidance(chain: Chain, tokenizer, context: int) -> Chain:
    """The chain with the ids of its guidance's prompt, where that is text. Raises as `encode_prompt` does."""
    source = chain.source
    if not isinstance(source, Guidance) or not isinstance(source.prompt, str):
        return chain
    try:
        ids = encode_prompt(source.prompt, tokenizer, context)
    except (PromptError, DataError) as error:
        raise type(error)(f"prompt of guidance: {error}") from None
    return dataclasses.replace(chain, source=dataclasses.replace(source, prompt=tuple(ids)))
