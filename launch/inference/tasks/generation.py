"""What the model writes behind the prompts of a task's examples: many at once, each as it would be written alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from data.errors import DataError
from launch.inference.checkpoint import DescribedCheckpoint, LoadedCheckpoint
from launch.inference.json_schema import read_schema_files
from launch.inference.matchers import Matchers
from launch.inference.prompts import encode_prompt
from launch.inference.provenance import index_opener
from launch.inference.replicas import Replicas
from launch.inference.request import TextRequest
from launch.inference.tasks.task import Task
from launch.inference.text import TextGenerator, check_stops, encode_chain
from launch.inference.text_engine import TextEngine, is_for_engine
from model.decode.chain import SamplerError, parse_chain
from model.decode.prompts import PromptError, PromptTooLong
from train.checkpoint_folder import CheckpointError, find_checkpoint

ROWS = 16  # prompts that are searched at once, where a text is written in several rows, as by beam search


class Output(NamedTuple):
    """What the model wrote, without white space around it. `error`: why it could not."""

    text: str
    error: str | None = None


class TaskWriter:
    """Writes with the model of a checkpoint, on all devices: each has all weights and a part of the prompts. One device
    writes chains that an engine refuses, as beams, and what a model in training writes: others hold what is trained."""

    def __init__(self, run: LoadedCheckpoint):
        self.run = run
        self.open_index = index_opener(run) if isinstance(run, DescribedCheckpoint) else None  # none while it trains

    @functools.cached_property
    def replicas(self) -> Replicas:
        run = self.run
        devices = jax.devices() if isinstance(run, DescribedCheckpoint) else jax.devices()[:1]
        rest = {"open_index": self.open_index}
        return Replicas(
            run.model, lambda model: TextEngine(model, run.tokenizer, run.trained_length, run.stop_ids, **rest), devices
        )

    @functools.cached_property
    def generator(self) -> TextGenerator:
        run = self.run
        return TextGenerator(run.model, run.tokenizer, run.trained_length, run.stop_ids, self.open_index)

    def check(self, task: Task) -> None:
        """Raises SamplerError, PromptError, DataError or CheckpointError where the task's chain or stop texts are none,
        or a run that the chain names is not there."""
        try:
            chain = parse_chain(read_schema_files(task.sampler))
            Matchers(self.run.tokenizer, self.open_index).check(chain)
            encode_chain(chain, self.run.tokenizer, self.run.trained_length)
            check_stops(task.stop)
            for run in filter(None, chain.source.runs):
                find_checkpoint(run)
        except (SamplerError, PromptError, DataError, CheckpointError) as error:
            raise type(error)(f"task {task.name}: {error}") from None

    def reason_against(self, prompt: str) -> str | None:
        """Why nothing can be written behind a prompt that is too long or empty; None if it can.

        Raises DataError for characters that the tokenizer does not know.
        """
        try:
            encode_prompt(prompt, self.run.tokenizer, self.run.trained_length)
        except (PromptTooLong, PromptError) as error:
            return str(error)
        return None

    def outputs(self, task: Task, prompts: Sequence[str], after_step: Callable[[], None]) -> Iterator[Output]:
        """The output of each prompt, in their order, as they are written; `after_step` is called between dispatches."""
        reasons = [self.reason_against(prompt) for prompt in prompts]
        written = self.write(task, [p for p, reason in zip(prompts, reasons, strict=True) if not reason], after_step)
        for reason in reasons:
            yield Output("", reason) if reason else next(written)

    def write(self, task: Task, prompts: Sequence[str], after_step: Callable[[], None]) -> Iterator[Output]:
        sampler = read_schema_files(task.sampler)
        if is_for_engine(parse_chain(sampler)):
            requests = [TextRequest(prompt, sampler, task.max_new_tokens, stop=task.stop) for prompt in prompts]
            for answer in self.replicas.answers(requests, after_step):
                if answer.error:
                    raise DataError(f"task {task.name}: {answer.error}")
                yield Output(answer.samples[0].text.strip())
            return
        options = {"sampler": sampler, "max_new_tokens": task.max_new_tokens, "stops": task.stop}
        for start in range(0, len(prompts), ROWS):
            for text in self.generator.generate(prompts[start : start + ROWS], **options):
                yield Output(text.text.strip())
            after_step()
