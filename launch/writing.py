"""Text in, text out: prompts encoded, tokens decoded as they come, stop texts, and writing on past the context.

`skald generate`, launch.api and the samples of training use it; model/decode does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax

from data.streaming import GrowingText
from model.decode import chain as chains
from model.decode.generate import Generator, PromptError
from train.config import Experiment


@dataclass
class Text:
    """One sample, as it grows. `shown` never holds half a character or any part of a stop text."""

    prompt: str
    ids: list[int]
    index: int
    growing: GrowingText
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""


class Writer:
    """Writes with a model and its tokenizer."""

    def __init__(self, model, tokenizer):
        self.tokenizer, self.context = tokenizer, model.config.context
        self.generator = Generator(model, vocab_size=tokenizer.vocab_size, context=self.context)

    def stream(
        self,
        prompts: Sequence[str],
        sampler: str,
        max_new_tokens: int,
        seed: int = 0,
        samples: int = 1,
        stops: Sequence[str] = (),
    ) -> Iterator[list[Text]]:
        """All samples after every dispatch, prompt by prompt; the last yield is the result.

        A text longer than the context is written in pieces: the newest half of the context is read again as the
        prompt of the next. Raises PromptError, SamplerError, DataError.
        """
        chain, encoded = chains.parse(sampler), [self.tokenizer.encode(prompt) for prompt in prompts]
        for ids in encoded:
            if len(ids) >= self.context:
                raise PromptError(
                    f"the prompt has {len(ids)} tokens and the model's context is {self.context}: at most "
                    f"{self.context - 1} leave room to write; shorten it"
                )
        texts = [
            Text(prompt, ids, index, GrowingText(self.tokenizer))
            for prompt, ids in zip(prompts, encoded, strict=True)
            for index in range(samples)
        ]
        stop_ids = [] if self.tokenizer.end_id is None else [self.tokenizer.end_id]
        piece = 0
        while going := [t for t in texts if not t.finish_reason]:
            for _ in self.piece(going, chain, max_new_tokens, seed + (piece << 32), stop_ids, stops):
                yield texts
            piece += 1

    def piece(self, going: list[Text], chain, max_new_tokens: int, seed: int, stop_ids, stops) -> Iterator[None]:
        """Goes on with unfinished texts until they end, or one of them fills the context."""
        left = [max_new_tokens - len(text.tokens) for text in going]
        read = [text.ids + text.tokens for text in going]
        read = [ids if len(ids) + n <= self.context or not t.tokens else ids[-(self.context // 2) :]
                for ids, n, t in zip(read, left, going, strict=True)]  # fmt: skip
        room = self.context - max(map(len, read))
        groups = self.generator.stream(
            read, chain=chain, max_new_tokens=min(room, max(left)), seed=[seed + (t.index << 40) for t in going],
            stop_ids=stop_ids,
        )  # fmt: skip
        for pieces in groups:
            for text, new, allowed in zip(going, pieces, left, strict=True):
                self.grow(text, new, allowed, stops)
            yield
            if all(text.finish_reason for text in going):
                return

    def grow(self, text: Text, new, allowed: int, stops: Sequence[str]) -> None:
        """Adds a dispatch's tokens to a text and decides whether it has ended."""
        if text.finish_reason:
            return
        already = len(text.tokens)
        text.tokens += new.tokens
        text.logprobs += new.log_probabilities
        text.text += text.growing.push(new.tokens)
        del already, allowed
        places = [place for stop in stops if (place := text.text.find(stop)) >= 0]
        if places:
            text.text, text.finish_reason = text.text[: min(places)], "stop"
        elif new.finish_reason == "stop":
            text.text, text.finish_reason = text.text + text.growing.flush(), "stop"

    def write(self, prompts: Sequence[str], sampler: str, max_new_tokens: int, **options) -> list[Text]:
        """`stream`'s last answer."""
        *_, last = self.stream(prompts, sampler, max_new_tokens, **options)
        return last


def shown(text: Text, stops: Sequence[str]) -> str:
    """The part of a growing text that may be printed: what could still become a stop text is held back."""
    if text.finish_reason or not stops:
        return text.text
    longest = max(
        (size for stop in stops for size in range(1, len(stop)) if text.text.endswith(stop[:size])), default=0
    )
    return text.text[: len(text.text) - longest]


def samples(model, experiment: Experiment, tokenizer) -> list[str]:
    """What training shows at an evaluation: prompt and text together."""
    asked = experiment.evaluation
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    del here
    texts = Writer(model, tokenizer).write(
        [asked.prompt], asked.sampler, asked.sample_tokens, seed=experiment.seed, samples=asked.samples
    )
    return [text.prompt + text.text for text in texts]
