"""Text of a growing list of ids, as it can be shown: never half a character. launch/ writes with it."""

from __future__ import annotations

from collections.abc import Sequence

from data.tokenizer import Tokenizer


class IncrementalDecoder:
    """`push(ids)` returns the new text that no later id can change; `flush()` the rest.

    Put together the pieces are decode(all ids). Ids are decoded from the last point known to be whole, so the work for
    a token does not grow with the text. `before` are the ids of whole text that this one continues: some tokenizers
    drop a space at the beginning of what they decode, so that ids stay in front of every decode.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self.tokenizer, self.before, self.ids = tokenizer, list(before), list(before)
        self.start, self.whole = 0, len(self.before)  # ids[start:whole] were shown; they are decoded again as context

    def decode_after_prefix(self, ids: list[int]) -> str:
        """The text of ids that stand right behind `before`."""
        decode = self.tokenizer.decode
        return decode(self.before + ids)[len(decode(self.before)) :]

    def push(self, ids: list[int]) -> str:
        self.ids.extend(ids)
        shown, text = self.decode_window()
        if text.endswith("\ufffd") or len(text) <= len(shown) or not text.startswith(shown):
            return ""
        self.start, self.whole = self.whole, len(self.ids)
        return text[len(shown) :]

    def flush(self) -> str:
        shown, text = self.decode_window()
        self.start = self.whole = len(self.ids)
        return text[len(shown) :]

    def decode_window(self) -> tuple[str, str]:
        decode = self.tokenizer.decode
        return decode(self.ids[self.start : self.whole]), decode(self.ids[self.start :])
