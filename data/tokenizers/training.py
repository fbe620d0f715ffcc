"""Trains SentencePiece models: a sample of a source's lines, and a model from it that keeps every text as it is.

launch/commands/tokenizer.py calls it; data/tokenizers/sentencepiece_model.py encodes with what comes out.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import sentencepiece

from data.errors import DataError, FieldError
from data.sources.document import Document

# No token holds one of these; encoded, each is tokens of its own. U+2581 is how SentencePiece writes a space. The
# trainer leaves out every line with U+2585, without an error, and ends words at tabs.
SEPARATORS = re.compile("[\n\r\t\0\u2581\u2585]")
LONGEST_LINE = 1000  # characters, at most 4,000 bytes: the trainer leaves out longer lines than 4,192, without an error
THREADS = 8  # on every machine: the sums of unigram, and so its model, differ with the number of threads
EXACT = {  # what it takes for decode(encode(text)) == text
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "required_chars": "\u2581",  # the space: without a token, as after Chinese text, it comes back as this character
}
TOKENS = {
    "user_defined_symbols": ["\n\n"],  # between paragraphs: 1% fewer tokens of novels. One newline is its byte.
    "allow_whitespace_only_pieces": True,  # runs of spaces, as of indented text: 1% fewer
    "character_coverage": 0.9999,  # 0.9995, the library's default, leaves Z and most digits of novels without a token
}


@dataclass(frozen=True)
class Trainer:
    """How a model is trained: `kind` of model, tokens of its vocabulary, and the most bytes of text that are used."""

    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: int = 8192
    sample_bytes: int = 100_000_000


@dataclass(frozen=True)
class Sample:
    """Lines to train on, in the order of the text, and how many lines and bytes (of UTF-8) they were drawn from."""

    lines: list[str]
    bytes: int
    lines_read: int
    bytes_read: int


def document_lines(document: Document) -> Iterator[str]:
    """The lines of a document that are not empty, between SEPARATORS; long ones in parts of at most LONGEST_LINE."""
    unfinished = ""
    for piece in document.pieces:
        if not isinstance(piece.content, str):
            continue
        if not piece.continues:
            yield from cut_line(unfinished)
            unfinished = ""
        *lines, unfinished = SEPARATORS.split(unfinished + piece.content)
        for line in lines:
            yield from cut_line(line)
        *parts, unfinished = cut_line(unfinished) or [""]
        yield from parts
    yield from cut_line(unfinished)


def cut_line(line: str) -> list[str]:
    """Parts of at most LONGEST_LINE characters, cut before a space where one is near: no word is lost by that."""
    parts, start = [], 0
    while len(line) - start > LONGEST_LINE:
        stop = line.rfind(" ", start + 1, start + LONGEST_LINE)
        stop = stop if stop > 0 else start + LONGEST_LINE
        parts.append(line[start:stop])
        start = stop
    return [*parts, line[start:]] if line else []


def draw_sample(lines: Iterable[str], limit: int) -> Sample:
    """All lines, or some nine to ten tenths of `limit` bytes of them, each as likely as any other.

    The same lines give the same sample. What is held in memory does not grow with the text. Raises DataError where
    there is no text, FieldError where no line fits into the sample.
    """
    draw, kept, share = random.Random(0).random, [], 1.0
    size = lines_read = bytes_read = 0
    for line in lines:
        length, rank = len(line.encode("utf-8")), draw()
        lines_read, bytes_read = lines_read + 1, bytes_read + length
        if rank >= share:
            continue
        kept.append((rank, line))
        size += length
        while size > limit:
            share *= 0.9
            kept = [(rank, line) for rank, line in kept if rank < share]
            size = sum(len(line.encode("utf-8")) for _, line in kept)
    if not lines_read:
        raise DataError("no text to train a tokenizer on: every line is empty")
    if not kept:
        raise FieldError(f"a sample of {limit} bytes holds no line; take 1,000,000 or more")
    return Sample([line for _, line in kept], size, lines_read, bytes_read)


def train(trainer: Trainer, sample: Sample) -> bytes:
    """A SentencePiece model, as the content of its .model file: the same sample gives the same bytes.

    Its tokens 1 and 2, <s> and </s>, begin and end documents. Raises FieldError where the vocabulary is too small or
    too large for the text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.encode("utf-8") for line in sample.lines),
            model_writer=model,
            model_type=trainer.kind,
            vocab_size=trainer.vocab_size,
            num_threads=THREADS,
            minloglevel=2,  # errors only; else it prints every step
            **EXACT,
            **TOKENS,
        )
    except RuntimeError as error:
        raise explain(error, trainer.vocab_size) from None
    return model.getvalue()


def explain(error: RuntimeError, vocab_size: int) -> Exception:
    """The library's error as one of ours: which vocabulary would work."""
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        return FieldError(
            f"a vocabulary of {vocab_size} tokens is too small: bytes, characters and special tokens are "
            f"{found[1]}, the least that works"
        )
    if found := re.search(r"set it to a value <= (\d+)", str(error)):
        return FieldError(
            f"a vocabulary of {vocab_size} tokens is too large for this text: {found[1]} is the most that works"
        )
    return DataError(f"SentencePiece can't train: {' '.join(str(error).split())}")
