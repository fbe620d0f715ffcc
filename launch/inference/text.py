"""Text generation: encodes prompts and words, decodes tokens as they are drawn, ends a text before a stop text.

`skald generate`, launch/api.py and the samples of training call it; model/decode/ draws the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax

from data.errors import DataError
from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.amateur import load_amateur
from launch.inference.checkpoint import NOT_FINITE
from launch.inference.matchers import Matchers, OpenIndex
from launch.inference.prompts import encode_guidance, encode_prompt
from launch.inference.stop_texts import find_stop, shown_length
from launch.inference.words import resolve
from model.decode import chain as chains
from model.decode.chain import Chain
from model.decode.completion import Completion
from model.decode.compositions import Contrast
from model.decode.generate import Generator
from model.decode.prompts import PromptError
from model.sharding import decoding_mesh
from train.config import Experiment
from train.fields import ConfigError
from train.run import RunError


@dataclass
class TextSample:
    """One sample while it is written. `completion` and `text` end before the first of `stops`, which may begin inside a
    token and end inside another; `text` holds no half characters.

    `chain`: as a person wrote it, its words no ids.
    """

    prompt: str
    chain: Chain
    seed: int
    decoder: IncrementalDecoder
    stops: Sequence[str] = ()
    completion: Completion = field(default_factory=Completion)
    text: str = ""

    @property
    def finish_reason(self) -> str | None:
        return self.completion.finish_reason

    @property
    def sampler(self) -> str:
        return str(self.chain)

    def extend(self, new: Completion) -> None:
        """Adds the tokens of one dispatch, and decides whether the text has ended.

        Raises RunError where the model gave no probabilities: any token would have been drawn.
        """
        if self.finish_reason:
            return
        if not all(map(math.isfinite, new.log_probabilities)):
            raise RunError(f"the model's probabilities are not numbers; {NOT_FINITE}")
        searched = len(self.text)
        self.completion.extend(new)
        self.text += self.decoder.push(new.tokens)
        if new.finish_reason:
            self.text += self.decoder.flush()
        offset = find_stop(self.text, self.stops, searched)
        if offset is not None:
            self.text = self.text[:offset]
            self.completion.cut(self.tokens_of_text())
            self.completion = replace(self.completion, finish_reason="stop", emptied_by=None, repetition_start=None)

    def tokens_of_text(self) -> int:
        """How many tokens make up the text: a dispatch may go on past a stop text."""
        tokens = self.completion.tokens
        kept = len(tokens)
        while kept and self.decoder.decode_after_prefix(tokens[: kept - 1]).startswith(self.text):
            kept -= 1
        return kept

    def printable(self) -> str:
        """The text without an end that could still become a stop text."""
        return self.text if self.finish_reason else self.text[: shown_length(self.text, self.stops)]

    def to_json(self, logprobs: bool = False) -> dict:
        """A sample as `skald generate --json` prints it.

        `logprobs`: with log-probabilities in nats: the model's own, those after the chain, those of the choice; and the
        probability, by the model, of all that the chain ruled out.
        """
        row = self.completion
        sample = {"prompt": self.prompt, "text": self.text, "tokens": row.tokens, "finish_reason": row.finish_reason,
                  "seed": self.seed, "sampler": self.sampler, "chain": chains.chain_to_json(self.chain)}  # fmt: skip
        why = {"emptied_by": row.emptied_by, "repetition_start": row.repetition_start}
        sample |= {name: value for name, value in why.items() if value is not None}
        if logprobs:
            sample |= {"logprobs": row.log_probabilities, "chain_logprobs": row.chain_log_probabilities,
                       "choice_logprobs": row.choice_log_probabilities, "truncated": row.truncated}  # fmt: skip
        return sample

    def emptied_message(self) -> str:
        """A line that says which link left no token, where, and what would work."""
        return (
            f"the prompt {shorten(self.prompt)!r} with seed {self.seed}: {shorten(self.completion.emptied_by)} left no "
            f"token to draw behind {len(self.completion.tokens)} new ones; loosen it, or give a chain without it"
        )


def shorten(text: str) -> str:
    """A text as it is shown in an error message."""
    return text if len(text) <= 60 else f"{text[:60]}…"


class TextGenerator:
    """Generates text with a model and its tokenizer. The model sees the last `context` tokens at a time. Each of
    `stop_ids` ends a text; None: the tokenizer's end token does, where it has one. `open_index` opens the index of the
    training text, for chains with max_copied_tokens; None: such chains are refused."""

    def __init__(
        self,
        model,
        tokenizer,
        context: int,
        stop_ids: Sequence[int] | None = None,
        open_index: OpenIndex | None = None,
    ):
        self.tokenizer, self.context = tokenizer, context
        self.stop_ids = [i for i in (tokenizer.end_id,) if i is not None] if stop_ids is None else stop_ids
        self.generator = Generator(
            model,
            vocab_size=tokenizer.vocab_size,
            context=self.context,
            matcher_maker=Matchers(tokenizer, open_index),
        )

    def stream(
        self,
        prompts: Sequence[str],
        sampler: str,
        max_new_tokens: int = 300,
        seed: int = 0,
        samples: int = 1,
        stops: Sequence[str] = (),
    ) -> Iterator[list[TextSample]]:
        """All samples after every dispatch, prompt by prompt; the last yield is the result. `stops` end a text as the
        chain's own stop texts do.

        Raises PromptError, SamplerError, CheckpointError (the run of a contrast), DataError (a character the tokenizer
        does not know).
        """
        chain = chains.parse_chain(sampler)
        resolved = encode_chain(chain, self.tokenizer, self.context)
        check_stops(stops)
        stops = [*chain.stop_texts, *stops]
        self.load_models(chain)
        ids = [encode_prompt(prompt, self.tokenizer, self.context) for prompt in prompts]
        texts = [
            TextSample(prompt, chain, seed, IncrementalDecoder(self.tokenizer, prompt_ids), stops)
            for prompt, prompt_ids in zip(prompts, ids, strict=True)
            for _ in range(samples)
        ]
        dispatches = self.generator.stream(
            ids,
            chain=resolved,
            max_new_tokens=max_new_tokens,
            seed=seed,
            samples=samples,
            stop_ids=self.stop_ids,
        )
        for pieces in dispatches:
            for text, new in zip(texts, pieces, strict=True):
                text.extend(new)
            yield texts
            if all(text.finish_reason for text in texts):
                return

    def load_models(self, chain: chains.Chain) -> None:
        """Loads the models of other runs that a chain names, each once. Raises CheckpointError, SamplerError."""
        for run in chain.source.runs:
            if run not in self.generator.models:
                self.generator.models[run] = load_amateur(run, self.tokenizer)

    def generate(self, prompts: Sequence[str], **request) -> list[TextSample]:
        """All samples once they are finished: the last yield of `stream`, whose arguments it takes."""
        *_, texts = self.stream(prompts, **request)
        return texts


def encode_chain(chain: Chain, tokenizer, context: int) -> Chain:
    """The chain with ids in the place of its words and of its guidance's prompt. Raises SamplerError, PromptError,
    DataError."""
    return encode_guidance(resolve(chain, tokenizer), tokenizer, context)


def check_stops(stops: Sequence[str]) -> None:
    """Raises PromptError for a stop text that is empty."""
    if "" in stops:
        raise PromptError("a stop text is empty, and would end every text at once; leave it out, or write some text")


def check_samples(experiment: Experiment, tokenizer, context: int) -> None:
    """Checks, before training begins, that `training_samples` will work. Raises ConfigError."""
    evaluation = experiment.evaluation
    least_of = {"rows": 1, "samples": 0} | ({"sample_tokens": 1} if evaluation.samples else {})
    for name, least in least_of.items():
        if getattr(evaluation, name) < least:
            raise ConfigError(f"evaluation.{name}: must be at least {least}, got {getattr(evaluation, name)}")
    if not evaluation.samples:
        return
    training_chain("evaluation.sampler", evaluation.sampler, tokenizer, context)
    try:
        encode_prompt(evaluation.prompt, tokenizer, context)
    except (PromptError, DataError) as error:
        raise ConfigError(f"evaluation.prompt: {error}; set another with --set evaluation.prompt=…") from None


def training_chain(path: str, sampler: str, tokenizer, context: int) -> Chain:
    """The chain of a config's field, its words as ids, for a model in training. Raises ConfigError."""
    try:
        chain = chains.parse_chain(sampler)
        Matchers(tokenizer).check(chain)
        resolved = encode_chain(chain, tokenizer, context)
    except (chains.SamplerError, PromptError, DataError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if isinstance(chain.source, Contrast):
        raise ConfigError(f"{path}: training holds one model, and contrast needs another; leave it out")
    return resolved


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
