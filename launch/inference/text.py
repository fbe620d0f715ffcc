"""Text generation: encodes prompts, decodes tokens as they are drawn, ends a text before a stop text.

`skald generate`, launch/api.py and the samples of training call it; model/decode/ draws the tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax

from data.errors import DataError
from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.checkpoint import NOT_FINITE
from model.decode import chain as chains
from model.decode.generate import Generator, PromptError, PromptTooLong
from model.sharding import decoding_mesh
from train.config import Experiment
from train.fields import ConfigError
from train.run import RunError


@dataclass
class TextSample:
    """One sample while it is written. `text` holds no half characters; it and `tokens` end before a stop text."""

    prompt: str
    sampler: str
    seed: int
    decoder: IncrementalDecoder
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None

    def extend(self, new, stops: Sequence[str]) -> None:
        """Adds the tokens of one dispatch, and decides whether the text has ended.

        Raises RunError where the model gave no probabilities: any token would have been drawn.
        """
        if self.finish_reason:
            return
        if not all(map(math.isfinite, new.log_probabilities)):
            raise RunError(f"the model's probabilities are not numbers; {NOT_FINITE}")
        self.tokens += new.tokens
        self.logprobs += new.log_probabilities
        self.text += self.decoder.push(new.tokens)
        if new.finish_reason:
            self.text, self.finish_reason = self.text + self.decoder.flush(), new.finish_reason
        offsets = [offset for stop in stops if (offset := self.text.find(stop)) >= 0]
        if offsets:
            self.text, self.finish_reason = self.text[: min(offsets)], "stop"
            self.drop_tokens_past_text()

    def drop_tokens_past_text(self) -> None:
        """Drops the tokens behind the text: a dispatch may go on past a stop text."""
        kept = len(self.tokens)
        while kept and self.decoder.decode_after_prefix(self.tokens[: kept - 1]).startswith(self.text):
            kept -= 1
        del self.tokens[kept:], self.logprobs[kept:]

    def printable(self, stops: Sequence[str]) -> str:
        """The text without an end that could still become a stop text."""
        if self.finish_reason:
            return self.text
        overlaps = [n for stop in stops for n in range(1, len(stop)) if self.text.endswith(stop[:n])]
        return self.text[: len(self.text) - max(overlaps, default=0)]

    def to_json(self, logprobs: bool = False) -> dict:
        """A sample as `skald generate --json` prints it; `logprobs` in nats, the model's own, before the chain."""
        names = ("prompt", "text", "tokens", "finish_reason", "seed", "sampler", *(["logprobs"] if logprobs else []))
        return {name: getattr(self, name) for name in names}


class TextGenerator:
    """Generates text with a model and its tokenizer. The model sees the last `context` tokens at a time. Each of
    `stop_ids` ends a text; None: the tokenizer's end token does, where it has one."""

    def __init__(self, model, tokenizer, context: int, stop_ids: Sequence[int] | None = None):
        self.tokenizer, self.context = tokenizer, context
        self.stop_ids = [i for i in (tokenizer.end_id,) if i is not None] if stop_ids is None else stop_ids
        self.generator = Generator(model, vocab_size=tokenizer.vocab_size, context=self.context)

    def stream(
        self,
        prompts: Sequence[str],
        sampler: str,
        max_new_tokens: int = 300,
        seed: int = 0,
        samples: int = 1,
        stops: Sequence[str] = (),
    ) -> Iterator[list[TextSample]]:
        """All samples after every dispatch, prompt by prompt; the last yield is the result.

        Raises PromptError, SamplerError, DataError (a character the tokenizer does not know).
        """
        chain = chains.parse_chain(sampler)
        if "" in stops:
            raise PromptError(
                "a stop text is empty, and would end every text at once; leave it out, or write some text"
            )
        ids = [encode_prompt(prompt, self.tokenizer, self.context) for prompt in prompts]
        texts = [
            TextSample(prompt, chains.format_chain(chain), seed, IncrementalDecoder(self.tokenizer, prompt_ids))
            for prompt, prompt_ids in zip(prompts, ids, strict=True)
            for _ in range(samples)
        ]
        dispatches = self.generator.stream(
            ids,
            chain=chain,
            max_new_tokens=max_new_tokens,
            seed=seed,
            samples=samples,
            stop_ids=self.stop_ids,
        )
        for pieces in dispatches:
            for text, new in zip(texts, pieces, strict=True):
                text.extend(new, stops)
            yield texts
            if all(text.finish_reason for text in texts):
                return

    def generate(self, prompts: Sequence[str], **request) -> list[TextSample]:
        """All samples once they are finished: the last yield of `stream`, whose arguments it takes."""
        *_, texts = self.stream(prompts, **request)
        return texts


def encode_prompt(prompt: str, tokenizer, context: int) -> list[int]:
    """The ids of a prompt, behind the start token where the tokenizer says so. An empty prompt is that token alone.

    Raises PromptError, PromptTooLong, DataError.
    """
    if half := re.search("[\ud800-\udfff]", prompt):  # from bytes that are not UTF-8, or half a pair of JSON escapes
        raise PromptError(
            f"{half[0]!r} at offset {half.start()} of the prompt is no character; write the text as UTF-8"
        )
    ids, start = tokenizer.encode(prompt), tokenizer.start_id
    if start is not None and ids[:1] != [start] and (tokenizer.start_prompts or not ids):
        ids = [start, *ids]
    if not ids:
        raise PromptError("the prompt is empty, and the tokenizer has no token that begins a text; write one")
    if len(ids) >= context:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens and the model was trained on {context} at a time: "
            f"{context - 1} at most leave room to write; shorten it"
        )
    return ids


def check_samples(experiment: Experiment, tokenizer, context: int) -> None:
    """Checks, before training begins, that `training_samples` will work. Raises ConfigError."""
    evaluation = experiment.evaluation
    least_of = {"rows": 1, "samples": 0} | ({"sample_tokens": 1} if evaluation.samples else {})
    for name, least in least_of.items():
        if getattr(evaluation, name) < least:
            raise ConfigError(f"evaluation.{name}: must be at least {least}, got {getattr(evaluation, name)}")
    if not evaluation.samples:
        return
    try:
        chains.parse_chain(evaluation.sampler)
    except chains.SamplerError as error:
        raise ConfigError(f"evaluation.sampler: {error}") from None
    try:
        encode_prompt(evaluation.prompt, tokenizer, context)
    except (PromptError, DataError) as error:
        raise ConfigError(f"evaluation.prompt: {error}; set another with --set evaluation.prompt=…") from None


def training_samples(model, experiment: Experiment, tokenizer, context: int) -> Iterator[list[str]]:
    """The samples that training shows at an evaluation, prompt and text together, after every dispatch.

    The decoding mesh is set only while a dispatch is computed: between two of them the run computes on its own mesh.
    """
    evaluation, mesh = experiment.evaluation, decoding_mesh(jax.sharding.get_mesh())
    request = {
        "sampler": evaluation.sampler,
        "max_new_tokens": evaluation.sample_tokens,
        "samples": evaluation.samples,
    }
    with jax.set_mesh(mesh):
        stream = TextGenerator(model.to_storage(), tokenizer, context).stream(
            [evaluation.prompt], seed=experiment.seed, **request
        )
    while True:
        with jax.set_mesh(mesh):
            texts = next(stream, None)
        if texts is None:
            return
        yield [text.prompt + text.text for text in texts]
