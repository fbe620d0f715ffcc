"""Text of a growing list of ids, as it can be shown: never half a character. launch/ writes with it."""

from __future__ import annotations

from data.tokenizer import Tokenizer


class GrowingText:
    """`push(ids)` returns the new text that no later id can change; `flush()` the rest.

    Put together the pieces are decode(all ids). Ids are decoded from the last point known to be whole, so the work for
    a token does not grow with the text. The first ids of the text, or of a piece that continues one, keep the
    tokenizer's own rule for a leading space: the ids before it stay in front of every decode.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.ids = tokenizer, []
        self.start = self.whole = 0  # ids[start:whole] were shown; they are decoded again as context

    def push(self, ids: list[int]) -> str:
        self.ids.extend(ids)
        shown, text = self.decoded()
        if text.endswith("\ufffd") or len(text) <= len(shown) or not text.startswith(shown):
            return ""
        self.start, self.whole = self.whole, len(self.ids)
        return text[len(shown) :]

    def flush(self) -> str:
        shown, text = self.decoded()
        self.start = self.whole = len(self.ids)
        return text[len(shown) :]

    def decoded(self) -> tuple[str, str]:
        decode = self.tokenizer.decode
        return decode(self.ids[self.start : self.whole]), decode(self.ids[self.start :])
