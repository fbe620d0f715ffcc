"""What may not be asked of the decoder, as errors of one line. generate.py and engine.py check requests here."""

from __future__ import annotations

from collections.abc import Sequence


class PromptError(ValueError):
    """A request can't be served; the message is one line with the prompt, what is wrong and what works."""


class PromptTooLong(PromptError):
    """A prompt leaves no room in the context for a new token."""


def check_prompt(name: str, ids: Sequence[int], vocab_size: int, context: int) -> None:
    """Raises PromptError, which calls the prompt by this name, where no text can go on from these ids."""
    if not len(ids):
        raise PromptError(f"{name} is empty; it needs one token at least, such as the end-of-text id")
    if isinstance(ids[0], str):
        raise PromptError(f"{name} is text; the decoder reads ids")
    if not 0 <= min(ids) <= max(ids) < vocab_size:
        invalid = next(token for token in ids if not 0 <= token < vocab_size)
        raise PromptError(f"{name} holds the id {invalid}; ids go from 0 to {vocab_size - 1}")
    if len(ids) >= context:
        raise PromptTooLong(
            f"{name} has {len(ids)} tokens and the model's context is {context}: "
            f"{context - 1} at most leave room to write; shorten it"
        )
