"""Text on a terminal as it is written: plain, or each token shaded by its probability. `skald generate` shows it so."""

from __future__ import annotations

import math

from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.text import TextSample

# Pale backgrounds under black, of the 256 colours: they are the same on a dark terminal and on a light one.
SHADES = ((0.5, 157), (0.1, 193), (0.01, 229), (0.001, 223), (0.0, 217))  # from this probability on: green to red
BLACK, RESET = 16, "\x1b[0m"


def shade(text: str, probability: float) -> str:
    """A text as a terminal shows it in the colour of a probability."""
    return paint(text, next(colour for least, colour in SHADES if probability >= least))


def paint(text: str, colour: int) -> str:
    """A text as a terminal shows it on a background, one of the 256 colours."""
    begin = f"\x1b[38;5;{BLACK};48;5;{colour}m"
    # A line break has no place of its own to shade, and a background that crosses it would fill the line.
    return f"{RESET}\n".join(begin + line for line in text.replace("\n", "↵\n").split("\n")) + RESET


def legend() -> str:
    """A line that says what the colours mean: from which probability on each stands."""
    shown = "".join(shade(f" {least:g} " if least else " less ", least) for least, _ in SHADES)
    return f"[the model's own probability of each token, from: {shown}]"


class PlainText:
    """A sample while it is written: `new` gives the text since the last time."""

    def __init__(self, sample: TextSample):
        self.sample, self.shown = sample, 0

    def new(self) -> str:
        text = self.sample.printable()
        start, self.shown = self.shown, len(text)
        return text[start:]


class ShadedText:
    """As PlainText, in colours. Tokens that are parts of one character have one colour, of their joint probability."""

    def __init__(self, sample: TextSample):
        self.sample, self.shown = sample, 0
        self.decoder = IncrementalDecoder(sample.decoder.tokenizer, sample.decoder.prefix)
        self.pieces: list[tuple[str, float]] = []  # not shown yet: texts, probabilities
        self.count, self.joint = 0, 0.0  # tokens that were decoded; nats of those whose text is not complete

    def new(self) -> str:
        self.decode()
        left, new = len(self.sample.printable()) - self.shown, ""
        while self.pieces and left > 0:
            (text, probability), *rest = self.pieces
            visible, hidden = text[:left], text[left:]
            new += shade(visible, probability)
            self.shown, left = self.shown + len(visible), left - len(visible)
            self.pieces = [(hidden, probability), *rest] if hidden else rest
        return new

    def decode(self) -> None:
        """Takes in the tokens since the last time."""
        completion = self.sample.completion
        for token, nats in zip(
            completion.tokens[self.count :], completion.log_probabilities[self.count :], strict=True
        ):
            self.count, self.joint = self.count + 1, self.joint + nats
            self.add(self.decoder.push([token]))
        if self.sample.finish_reason:
            self.add(self.decoder.flush())

    def add(self, text: str) -> None:
        if text:
            self.pieces.append((text, math.exp(self.joint)))
            self.joint = 0.0
