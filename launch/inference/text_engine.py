"""Texts of many requests at once, through the engine of model/decode/, each as TextGenerator writes it alone.

`skald generate` calls it for `--prompts`, for drafts and in invariant mode; launch/api.py for run.generate_many.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.errors import DataError
from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.matchers import Matchers, OpenIndex
from launch.inference.prompts import encode_prompt
from launch.inference.request import TextRequest
from launch.inference.text import TextGenerator, TextSample, check_stops, encode_chain
from model.decode.chain import Chain, SamplerError, parse_chain
from model.decode.compositions import Alone
from model.decode.constraint import Matcher
from model.decode.engine import Engine, Request
from model.decode.prompts import PromptError
from model.decode.speculation import Drafter
from train.checkpoint_folder import CheckpointError
from train.run import RunError

SLOTS = 64  # texts at once: the same for one request as for many, since it is a size of the compiled programs
QUEUE = 64  # texts that wait for a slot
ANSWERS = 4096  # that wait for one before them

REFUSALS = (PromptError, SamplerError, DataError, CheckpointError)  # of one request; others go on


@dataclass(eq=False)
class TextAnswer:
    """What became of a request: its samples, or why there are none.

    `in_engine`: whether the engine writes it; else it is written in its turn.
    """

    request: TextRequest
    samples: list[TextSample] = field(default_factory=list)
    error: str | None = None
    in_engine: bool = True

    @property
    def finished(self) -> bool:
        return self.error is not None or (bool(self.samples) and all(text.finish_reason for text in self.samples))

    @property
    def failed(self) -> bool:
        """Whether it holds an error."""
        return self.error is not None or any(text.finish_reason == "emptied" for text in self.samples)

    def to_json(self, logprobs: bool = False) -> list[dict]:
        """An object for each sample, as of `skald generate --json`, with `id` and, of several, `sample`; `error` says
        what went wrong, where there are no samples in one object alone."""
        named = {} if self.request.id is None else {"id": self.request.id}
        if self.error is not None:
            request = self.request
            shown = {"prompt": request.prompt, "seed": request.seed, "sampler": request.sampler, "error": self.error}
            return [named | shown]
        shown = []
        for index, text in enumerate(self.samples):
            number = {"sample": index} if self.request.num_samples > 1 else {}
            error = {"error": text.emptied_message()} if text.finish_reason == "emptied" else {}
            shown.append(named | number | text.to_json(logprobs) | error)
        return shown


class TextEngine:
    """Writes the texts of many requests at once with a model and its tokenizer.

    `context`, `stop_ids`, `open_index`: as TextGenerator's. `drafter`, `drafts`, `invariant`: as the Engine's.
    Chains that an engine refuses are written by a TextGenerator, one request after another; in invariant mode they are
    refused.
    `tokens`, `drafted`, `accepted`: counts of all texts so far.
    """

    def __init__(
        self,
        model,
        tokenizer,
        context: int,
        stop_ids: Sequence[int],
        drafter: Drafter | None = None,
        drafts: int = 7,
        invariant: bool = False,
        open_index: OpenIndex | None = None,
    ):
        self.model, self.tokenizer, self.context, self.stop_ids = model, tokenizer, context, stop_ids
        self.open_index, self.matchers = open_index, Matchers(tokenizer, open_index)
        self.invariant = invariant
        self.engine = Engine(
            model, vocab_size=tokenizer.vocab_size, context=context, slots=SLOTS, waiting=QUEUE, draft=drafter,
            drafts=drafts, invariant=invariant, matcher_maker=self.new_matcher,
        )  # fmt: skip
        self.texts: dict[int, TextSample] = {}  # not finished, by the engine's number
        self.tokens, self.drafted, self.accepted = 0, 0, 0
        self.chain_of = functools.lru_cache(maxsize=256)(self.encode_chain)  # of many requests most have the same

    @functools.cached_property
    def generator(self) -> TextGenerator:
        """What writes the chains that an engine refuses. It prepares the weights a second time, so only if need be."""
        return TextGenerator(self.model, self.tokenizer, self.context, self.stop_ids, self.open_index)

    def encode_chain(self, sampler: str) -> tuple[Chain, Chain]:
        """A chain as a person wrote it, and with ids in the place of words."""
        chain = parse_chain(sampler)
        return chain, encode_chain(chain, self.tokenizer, self.context)

    def new_matcher(self, constraint, prompt, stop_ids) -> Matcher:
        return GuardedMatcher(self.matchers(constraint, prompt, stop_ids))

    def summary(self, seconds: float) -> str:
        """A line on what was written in so many seconds, compilation included."""
        parts = [f"{self.tokens:,} tokens in {seconds:.1f} s: {self.tokens / seconds:,.1f} tokens/s"]
        if self.invariant:
            parts.append(f"in invariant tiles of {self.engine.decoding.tile}")
        if self.drafted:
            parts.append(f"{self.accepted:,} of {self.drafted:,} drafts accepted ({self.accepted / self.drafted:.0%})")
        return ", ".join([*parts, f"{self.engine.programs} programs"])

    def stream(self, request: TextRequest) -> Iterator[list[TextSample]]:
        """The samples of one request after every step; the last yield is the result. Raises as TextGenerator does."""
        answer = self.start(request)
        if not answer.in_engine:
            yield from self.write_alone(answer)
        while not answer.finished:
            self.step()
            yield answer.samples

    def answers(
        self, requests: Iterable[TextRequest], after_step: Callable[[], None] = lambda: None
    ) -> Iterator[TextAnswer]:
        """The answers of all requests in their order, each once those before it are there. A request that can't be
        served is answered with an error, others go on. `after_step` is called between dispatches.

        Raises RunError where the model's probabilities are no numbers."""
        requests, waiting = iter(requests), deque()
        while True:
            while self.has_room and len(waiting) < ANSWERS and (request := next(requests, None)) is not None:
                waiting.append(self.try_start(request))
            if not waiting:
                return
            if waiting[0].finished:
                yield waiting.popleft()
            elif waiting[0].in_engine:
                self.step()
            else:
                self.try_write_alone(waiting[0])
            after_step()

    @property
    def has_room(self) -> bool:
        return len(self.texts) < SLOTS + QUEUE

    def start(self, request: TextRequest) -> TextAnswer:
        """Gives a request's texts to the engine, if it takes them. Raises REFUSALS."""
        chain, encoded = self.chain_of(request.sampler)
        check_stops(request.stop)
        ids = self.encode_prompt(request)
        if not is_for_engine(encoded):
            if self.invariant:
                raise PromptError(f"{chain} reads or writes several rows, which invariant mode can't; leave that mode")
            return TextAnswer(request, in_engine=False)
        own = [
            Request(ids, encoded, request.max_new_tokens, request.seed, sample, self.stop_ids)
            for sample in range(request.num_samples)
        ]
        self.engine.check(own[0])
        answer = TextAnswer(request)
        for one in own:
            text = TextSample(request.prompt, chain, request.seed, IncrementalDecoder(self.tokenizer, ids),
                              [*chain.stop_texts, *request.stop])  # fmt: skip
            self.texts[self.submit(one)] = text
            answer.samples.append(text)
        return answer

    def encode_prompt(self, request: TextRequest) -> list[int]:
        return encode_prompt(request.prompt, self.tokenizer, self.context)

    def submit(self, request: Request) -> int:
        """Puts a text into the engine's queue, letting it work until there is room: a request may have many samples."""
        while self.engine.scheduler.full:
            self.step()
        return self.engine.submit(request)

    def try_start(self, request: TextRequest) -> TextAnswer:
        try:
            return self.start(request)
        except REFUSALS as error:
            return TextAnswer(request, error=str(error))

    def write_alone(self, answer: TextAnswer) -> Iterator[list[TextSample]]:
        """Writes the texts of a chain that the engine refuses; the last yield is the result."""
        request = answer.request
        for answer.samples in self.generator.stream(
            [request.prompt], request.sampler, request.max_new_tokens, request.seed, request.num_samples, request.stop
        ):
            yield answer.samples
        self.tokens += sum(len(text.completion.tokens) for text in answer.samples)

    def try_write_alone(self, answer: TextAnswer) -> None:
        try:
            deque(self.write_alone(answer), maxlen=0)
        except REFUSALS as error:
            answer.samples, answer.error = [], str(error)

    def step(self) -> None:
        """One step of the engine. A text that comes to a stop text ends."""
        for number, piece in self.engine.step():
            self.drafted, self.accepted = self.drafted + piece.drafted, self.accepted + piece.accepted
            text = self.texts.get(number)
            if text is None:  # it was cancelled
                continue
            before = len(text.completion.tokens)
            text.extend(piece)
            self.tokens += len(text.completion.tokens) - before
            if text.finish_reason:
                del self.texts[number]
                self.engine.cancel(number)


def is_for_engine(chain: Chain) -> bool:
    """Whether an engine takes a chain: one that reads one text and writes it in one row."""
    return isinstance(chain.source, Alone) and chain.strategy.rows == 1


class GuardedMatcher:
    """A matcher whose failure leaves its own text no token, and does not end the engine that writes others."""

    def __init__(self, matcher: Matcher):
        self.matcher, self.failed = matcher, False

    @property
    def finished(self) -> bool:
        return not self.failed and self.matcher.finished

    def mask(self) -> np.ndarray:
        mask = self.matcher.mask()
        return np.zeros_like(mask) if self.failed else mask

    def accept(self, token: int) -> None:
        try:
            self.matcher.accept(token)
        except RunError:
            self.failed = True
