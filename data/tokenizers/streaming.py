"""Decodes token ids to text as they are generated, and never shows half a character. launch/ writes with it."""

from __future__ import annotations

from collections.abc import Sequence

from data.tokenizers.tokenizer import Tokenizer


class IncrementalDecoder:
    """Decodes a growing list of token ids, a piece of text at a time.

    `push(ids)` adds ids and returns the new text that no later id can change; `flush()` returns the rest. The pieces
    joined are decode(all ids). Only ids from `context_start` on are decoded, so the work for a token does not grow with
    the text. `prefix` holds the ids of complete text that this text continues, as of a prompt: some tokenizers drop a
    space at the beginning of what they decode, so some ids are always decoded in front of the new ones.
    """

    def __init__(self, tokenizer: Tokenizer, prefix: Sequence[int] = ()):
        self.tokenizer, self.prefix, self.ids = tokenizer, list(prefix), list(prefix)
        # ids[context_start:shown_stop] were shown already; they are decoded again as context.
        self.context_start, self.shown_stop = 0, len(self.prefix)

    def decode_after_prefix(self, ids: list[int]) -> str:
        """The text of ids that stand right behind `prefix`."""
        decode = self.tokenizer.decode
        return decode(self.prefix + ids)[len(decode(self.prefix)) :]

    def push(self, ids: list[int]) -> str:
        self.ids.extend(ids)
        context, text = self.decode_window()
        if text.endswith("\ufffd") or len(text) <= len(context) or not text.startswith(context):
            return ""
        self.context_start, self.shown_stop = self.shown_stop, len(self.ids)
        return text[len(context) :]

    def flush(self) -> str:
        context, text = self.decode_window()
        self.context_start = self.shown_stop = len(self.ids)
        return text[len(context) :]

    def decode_window(self) -> tuple[str, str]:
        """The text of the context that was shown already, and of the context with all ids behind it."""
        decode = self.tokenizer.decode
        return decode(self.ids[self.context_start : self.shown_stop]), decode(self.ids[self.context_start :])
