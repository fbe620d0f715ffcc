"""Writes the texts of a plan that are not written yet: many at once, those that one program writes together."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.matchers import Matchers
from launch.inference.progress import Progress
from launch.inference.provenance import index_opener
from launch.inference.request import TextRequest
from launch.inference.text import TextGenerator, TextSample, check_stops, encode_chain
from launch.inference.text_engine import SLOTS, TextEngine, is_for_engine
from launch.quality.grid import HUMAN, Setting
from launch.quality.plan import Plan, Wanted
from launch.quality.prompts import Place
from launch.quality.texts_file import Text, TextsFile
from model.decode.chain import Chain, SamplerError, parse_chain
from model.decode.loop import CHUNK
from model.decode.prompts import PromptError
from train.run import RunError

ROWS = 64  # of all texts that are written at once where each takes several, as by beam search


class PlaceEngine(TextEngine):
    """A TextEngine whose requests name the prompt by the index of a place (`id`): its ids are not encoded again."""

    def __init__(self, run: LoadedCheckpoint, places: Sequence[Place]):
        opener = index_opener(run)
        super().__init__(run.model, run.tokenizer, run.trained_length, run.stop_ids, open_index=opener)
        self.places = places

    def encode_prompt(self, request: TextRequest) -> list[int]:
        return list(self.places[request.id].prompt)


class Rate(NamedTuple):
    """What a first batch took: `tokens_per_second` once its program was compiled, and the seconds of compiling it."""

    tokens_per_second: float
    compile_seconds: float

    def seconds(self, groups: Sequence[tuple[Chain, int]], new_tokens: int) -> float:
        """Of writing texts of so many tokens, by groups of a chain and a number of texts: each group fills the batch as
        often as it needs, at the rate of plain sampling. Penalties and searches take longer."""
        batches = sum(math.ceil(chain.strategy.rows * texts / SLOTS) for chain, texts in groups)
        rate = max(self.tokens_per_second, 1.0)
        return batches * SLOTS * new_tokens / rate + self.compile_seconds * len(groups)


class TextWriter:
    """Writes the texts of a plan with the model of a checkpoint."""

    def __init__(self, run: LoadedCheckpoint, plan: Plan):
        self.run, self.plan = run, plan

    @functools.cached_property
    def engine(self) -> PlaceEngine:
        return PlaceEngine(self.run, self.plan.places)

    @functools.cached_property
    def generator(self) -> TextGenerator:
        run = self.run
        return TextGenerator(run.model, run.tokenizer, run.trained_length, run.stop_ids, index_opener(run))

    def chain(self, setting: Setting) -> Chain:
        """The chain of a setting with ids in the place of words. Raises SamplerError, PromptError, DataError."""
        chain = parse_chain(setting.chain)
        check_stops(chain.stop_texts)
        Matchers(self.run.tokenizer, index_opener(self.run)).check(chain)
        return encode_chain(chain, self.run.tokenizer, self.run.trained_length)

    def measure(self) -> Rate:
        """Writes the beginnings of a first batch twice: the first time compiles the program."""
        wanted = [one for one in self.plan.wanted(Setting("temperature=1", "")) if one.index < SLOTS]
        tokens, seconds = min(2 * CHUNK, self.plan.new_tokens), []
        for _ in range(2):
            started, before = time.monotonic(), self.engine.tokens
            for _ in self.engine.answers(self.requests(wanted, tokens)):
                pass
            seconds.append(time.monotonic() - started)
        return Rate((self.engine.tokens - before) / seconds[1], max(0.0, seconds[0] - seconds[1]))

    def requests(self, wanted: Iterable[Wanted], new_tokens: int) -> Iterator[TextRequest]:
        for one in wanted:
            yield TextRequest("", one.setting.chain, new_tokens, one.seed, id=one.index)

    def write(self, wanted: Sequence[Wanted], after_step: Callable[[], None]) -> Iterator[TextSample]:
        """The texts of settings of one group, in their order. Raises RunError, SamplerError, PromptError."""
        if not is_for_engine(self.chain(wanted[0].setting)):
            yield from self.write_in_rows(wanted, after_step)
            return
        for answer in self.engine.answers(self.requests(wanted, self.plan.new_tokens), after_step):
            if answer.error:
                raise RunError(f"{answer.request.sampler}: {answer.error}")
            yield answer.samples[0]

    def write_in_rows(self, wanted: Sequence[Wanted], after_step: Callable[[], None]) -> Iterator[TextSample]:
        """As `write`, where a text is read or written in several rows."""
        encoded = self.chain(wanted[0].setting)
        self.generator.load_models(parse_chain(wanted[0].setting.chain))
        count = max(1, ROWS // encoded.strategy.rows)
        for start in range(0, len(wanted), count):
            part = wanted[start : start + count]
            prompts = [list(self.plan.places[one.index].prompt) for one in part]
            completions = self.generator.generator.generate(
                prompts, chain=[self.chain(one.setting) for one in part], max_new_tokens=self.plan.new_tokens,
                seed=[one.seed for one in part], stop_ids=self.run.stop_ids,
            )  # fmt: skip
            for one, prompt, completion in zip(part, prompts, completions, strict=True):
                decoder = IncrementalDecoder(self.run.tokenizer, prompt)
                own = parse_chain(one.setting.chain)
                sample = TextSample("", own, one.seed, decoder, own.stop_texts)
                sample.extend(completion)
                yield sample
            after_step()


def missing_groups(writer: TextWriter, plan: Plan, file: TextsFile) -> list[list[Wanted]]:
    """The texts that the file lacks, those together whose chains share a program. Raises SamplerError, PromptError."""
    groups: dict[tuple, list[Wanted]] = {}
    for setting in plan.settings:
        try:
            kinds = writer.chain(setting).kinds
        except (SamplerError, PromptError) as error:
            raise type(error)(f"setting {setting.chain!r}: {error}") from None
        missing = [wanted for wanted in plan.wanted(setting) if wanted.digest not in file.texts]
        groups.setdefault(kinds, []).extend(missing)
    return [group for group in groups.values() if group]


def write_human_texts(run: LoadedCheckpoint, plan: Plan, file: TextsFile) -> None:
    """Keeps what people wrote behind the prompts as texts of the setting `human`."""
    for wanted in plan.wanted(Setting(HUMAN, HUMAN)):
        place = plan.places[wanted.index]
        if wanted.digest not in file.texts:
            decoder = IncrementalDecoder(run.tokenizer, place.prompt)
            text = decoder.push(list(place.human)) + decoder.flush()
            file.add(wanted, prompt_text(run, place), Text(place.human, text, "length", 0.0))


def prompt_text(run: LoadedCheckpoint, place: Place) -> str:
    return run.tokenizer.decode(list(place.prompt))


def write_texts(writer: TextWriter, groups: Sequence[Sequence[Wanted]], file: TextsFile, progress: Progress) -> None:
    """Writes all groups into the file, as they are written."""
    written = time.monotonic()
    for group in groups:
        for wanted, sample in zip(group, writer.write(group, progress.show), strict=True):
            place = writer.plan.places[wanted.index]
            now = time.monotonic()
            text = Text(tuple(sample.completion.tokens), sample.text, sample.finish_reason, round(now - written, 4))
            written = now
            file.add(wanted, prompt_text(writer.run, place), text)
            progress.add(len(text.tokens))
