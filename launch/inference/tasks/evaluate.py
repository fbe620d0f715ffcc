"""Scores a checkpoint on evaluation tasks. launch/inference/evaluation.py calls it."""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

from data.errors import DataError
from data.store.progress import SECONDS
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.likelihood import Continuation, ContinuationScore, encode_continuation, score_continuations
from launch.inference.progress import Progress
from launch.inference.prompts import encode_response, encode_whole_prompt
from launch.inference.tasks.example import Example
from launch.inference.tasks.examples import read_examples
from launch.inference.tasks.generation import Output, TaskWriter
from launch.inference.tasks.metrics import METRICS, check_libraries
from launch.inference.tasks.results import ResultsFile, results_digest
from launch.inference.tasks.task import Task, check_names
from model.decode.prompts import PromptError

BLOCK = 512  # examples that are scored together: after a kill again together, so that sums come out the same


class PreparedTask:
    """A task with its examples, all of them read, encoded and checked, before anything is computed.

    Raises DataError, PromptError, SamplerError, RunError (a library that is not installed).
    """

    def __init__(self, run: LoadedCheckpoint, task: Task, writer: TaskWriter):
        self.run, self.task, self.writer, self.metric = run, task, writer, METRICS[task.metric]
        check_libraries(task.metric)
        if self.metric.generates:
            writer.check(task)
        self.examples = read_examples(task)
        self.requests = [self.encode(example) for example in self.examples]

    @functools.cached_property
    def digest(self) -> str:
        return results_digest(self.run, self.task, self.examples)

    def with_run(self, run: LoadedCheckpoint) -> PreparedTask:
        """The same examples for another checkpoint that has the same tokenizer."""
        other = copy.copy(self)
        other.run, other.writer = run, TaskWriter(run)
        return other

    def encode(self, example: Example) -> list[Continuation]:
        """What is scored of an example, as ids."""
        try:
            if self.metric.generates:
                self.writer.reason_against(example.prompt)
            encoded = [self.encode_pair(example.prompt, text) for text in self.metric.continuations(example)]
        except (DataError, PromptError) as error:
            raise DataError(
                f"{example.origin}: {error}; task {self.task.name} does not go with the tokenizer of {self.run.name}"
            ) from None
        longest = max((len(request.continuation) for request in encoded), default=0)
        if longest > self.run.trained_length:
            raise DataError(
                f"{example.origin}: an answer of {longest} tokens; {self.run.name} was trained on "
                f"{self.run.trained_length} at a time"
            )
        return encoded

    def encode_pair(self, prompt: str, continuation: str) -> Continuation:
        if self.task.tokenization == "together":
            return encode_continuation(self.run.tokenizer, prompt, continuation)
        ids = tuple(encode_whole_prompt(prompt, self.run.tokenizer))
        return Continuation(ids, tuple(encode_response(prompt, continuation, self.run.tokenizer)))

    def evaluate(self, folder: Path, report: Callable[[str], None], seconds: float) -> dict:
        """Scores what is not scored in `folder` yet, and returns the metrics of all examples."""
        path = folder / f"{self.task.name}-{self.digest[:8]}.jsonl"
        file = ResultsFile(path, self.digest, len(self.examples))
        total, done = len(self.examples), len(file.results)
        if done:
            report(f"{self.task.name}: {done:,} of {total:,} examples are scored already")
        progress = Progress(self.task.name, "examples", total, done, report, seconds)
        for result in self.results(set(file.results), progress.show):
            file.add(result)
            progress.add()
        file.close()
        results = file.in_order()
        errors = sum("error" in result for result in results)
        if errors:
            reason = next(result["error"] for result in results if "error" in result)
            report(f"{self.task.name}: nothing is written to {errors} of {len(results)} prompts, as if wrong: {reason}")
        found = {"metric": self.task.metric, **self.metric.summary(results), "examples": len(results), "errors": errors}
        return found | {"tokenization": self.task.tokenization, "results": str(path)}

    def results(self, done: Set[int], after_step: Callable[[], None]) -> Iterator[dict]:
        """The result of each example whose index is not `done`, as they are computed."""
        for start in range(0, len(self.examples), BLOCK):
            block = self.examples[start : start + BLOCK]
            missing = [example for example in block if example.index not in done]
            if not missing:
                continue
            scored = self.scored(block, after_step)
            if not self.metric.generates:
                yield from (self.result(example, scores) for example, scores in scored if example.index not in done)
                continue
            scores = {example.index: own for example, own in scored}
            outputs = self.writer.outputs(self.task, [example.prompt for example in missing], after_step)
            for example, output in zip(missing, outputs, strict=True):
                yield self.result(example, scores[example.index], output)

    def result(self, example: Example, scores: Sequence[ContinuationScore], output: Output | None = None) -> dict:
        """What is kept of an example."""
        known = {"task": self.task.name, "index": example.index, "prompt": example.prompt}
        error = {"error": output.error} if output and output.error else {}
        return known | self.metric.result(example, scores, output and output.text) | error

    def scored(
        self, examples: Sequence[Example], after_step: Callable[[], None]
    ) -> Iterator[tuple[Example, list[ContinuationScore]]]:
        """Each example with the scores of its continuations, once all of them are computed."""
        owners = [(example, place) for example in examples for place in range(len(self.requests[example.index]))]
        yield from ((example, []) for example in examples if not self.requests[example.index])
        found: dict[int, dict[int, ContinuationScore]] = defaultdict(dict)
        requests = [self.requests[example.index][place] for example, place in owners]
        for number, score in score_continuations(self.run, requests):
            example, place = owners[number]
            own = found[example.index]
            own[place] = score
            if len(own) == len(self.requests[example.index]):
                yield example, [own[place] for place in range(len(own))]
            after_step()


def prepare_tasks(run: LoadedCheckpoint, tasks: Sequence[Task]) -> list[PreparedTask]:
    """The tasks, checked. Raises ConfigError, DataError, PromptError, SamplerError, RunError."""
    check_names(tasks)
    writer = TaskWriter(run)
    return [PreparedTask(run, task, writer) for task in tasks]


def evaluate_tasks(
    run: LoadedCheckpoint,
    prepared: Sequence[PreparedTask],
    results: str | Path | None,
    report: Callable[[str], None],
    seconds: float = SECONDS,
) -> dict[str, dict]:
    """The metrics of each task by its name. `results`: the folder that keeps the result of every example; None: the
    folder tasks/STEP of the run. `seconds`: between lines of progress. Raises DataError, RunError."""
    folder = Path(results) if results else run.folder.parents[1] / "tasks" / str(run.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: can't write there ({error.strerror}); name another folder with --results (in Python results=…)"
        ) from None
    return {one.task.name: one.evaluate(folder, report, seconds) for one in prepared}
