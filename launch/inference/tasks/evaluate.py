"""Scores a checkpoint on evaluation tasks. launch/inference/evaluation.py calls it."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from pathlib import Path

from data.errors import DataError
from data.store.progress import SECONDS
from data.tokenizers.tokenizer import Tokenizer
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.likelihood import Continuation, ContinuationScore, encode_continuation, score_continuations
from launch.inference.progress import Progress
from launch.inference.prompts import encode_response, encode_whole_prompt
from launch.inference.results_folder import results_folder
from launch.inference.tasks.example import Example
from launch.inference.tasks.examples import read_examples
from launch.inference.tasks.generation import Output, TaskWriter
from launch.inference.tasks.metrics import METRICS, check_libraries
from launch.inference.tasks.results import ResultsFile, results_digest
from launch.inference.tasks.task import Task, check_names, checked
from model.decode.prompts import PromptError

BLOCK = 512  # examples that are scored together: after a kill again together, so that sums come out the same


class PreparedTask:
    """A task with its examples, all of them read, encoded and checked, before anything is computed.

    Raises DataError, PromptError, SamplerError, CheckpointError, RunError (a library that is not installed).
    """

    def __init__(self, run: LoadedCheckpoint, task: Task, writer: TaskWriter):
        self.run, self.task, self.writer, self.metric = run, task, writer, METRICS[task.metric]
        check_libraries(task.metric)
        if self.metric.generates:
            writer.check(task)
        self.examples = read_examples(task)
        self.requests = [self.encode(example) for example in self.examples]
        if self.metric.generates:
            self.check_room()

    @functools.cached_property
    def digest(self) -> str:
        return results_digest(self.run, self.task, self.examples)

    def with_run(self, run: LoadedCheckpoint, writer: TaskWriter) -> PreparedTask:
        """The same examples for another checkpoint that has the same tokenizer, and its writer."""
        other = copy.copy(self)
        other.run, other.writer = run, writer
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
        self.check_row(max((len(request.continuation) for request in encoded), default=0), example.origin)
        return encoded

    def check_row(self, tokens: int, origin: str) -> None:
        if tokens > (most := self.run.trained_length):
            raise DataError(f"{origin}: an answer of {tokens} tokens; {self.run.name} was trained on {most} at a time")

    def check_room(self) -> None:
        """Raises DataError where the model may not write as many tokens as the longest answer has."""
        tokens, index = max((self.written_tokens(example), -example.index) for example in self.examples)
        origin, most = self.examples[-index].origin, self.task.max_new_tokens
        self.check_row(tokens, origin)
        if tokens > most:
            raise DataError(
                f"{origin}: an answer of {tokens} tokens, the longest there is, and task {self.task.name} lets the "
                f"model write {most}; set its max_new_tokens, as --set {self.task.name}.max_new_tokens={tokens}"
            )

    def written_tokens(self, example: Example) -> int:
        """The tokens of the longest of an example's answers, as the template begins them, behind its prompt."""
        texts = [example.space + choice for choice in example.choices] or [example.answer.rstrip()]
        return max(new_tokens(self.run.tokenizer, example.prompt, text) for text in texts)

    def encode_pair(self, prompt: str, continuation: str) -> Continuation:
        if self.task.tokenization == "together":
            return encode_continuation(self.run.tokenizer, prompt, continuation)
        ids = tuple(encode_whole_prompt(prompt, self.run.tokenizer))
        return Continuation(ids, tuple(encode_response(prompt, continuation, self.run.tokenizer)))

    def evaluate(self, folder: Path, report: Callable[[str], None], seconds: float) -> dict:
        """Scores what is not scored in `folder` yet, and returns the metrics of all examples."""
        path = folder / f"{self.task.name}-{self.digest[:8]}.jsonl"
        with contextlib.closing(ResultsFile(path, self.digest, len(self.examples))) as file:
            total, done = len(self.examples), len(file.results)
            if done:
                report(f"{self.task.name}: {done:,} of {total:,} examples are scored already")
            progress = Progress(self.task.name, "examples", total, done, report, seconds)
            with contextlib.closing(self.results(set(file.results), progress.show)) as computed:
                for result in computed:
                    file.add(result)
                    progress.add()
        results = file.in_order()
        errors = sum("error" in result for result in results)
        if errors:
            reason = next(result["error"] for result in results if "error" in result)
            report(f"{self.task.name}: nothing is written to {errors} of {len(results)} prompts, as if wrong: {reason}")
        found = {"metric": self.task.metric, **self.metric.summary(results), "examples": len(results), "errors": errors}
        return found | {"tokenization": self.task.tokenization, "results": str(path)}

    def results(self, done: Set[int], after_step: Callable[[], None]) -> Generator[dict, None, None]:
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


def new_tokens(tokenizer: Tokenizer, prompt: str, text: str) -> int:
    """The tokens of a text behind a prompt, encoded together or alone, whichever are fewer; 0 where the tokenizer does
    not know a character of it."""
    try:
        alone = len(encode_response(prompt, text, tokenizer))
        before, whole = (len(encode_whole_prompt(part, tokenizer)) for part in (prompt, prompt + text))
    except DataError:
        return 0
    except PromptError:  # nothing can stand for an empty prompt
        return alone
    return min(alone, whole - before)


def prepare_tasks(run: LoadedCheckpoint, tasks: Sequence[Task]) -> list[PreparedTask]:
    """The tasks, checked. Raises ConfigError and what PreparedTask raises."""
    check_names(tasks)
    writer = TaskWriter(run)
    return [PreparedTask(run, checked(task), writer) for task in tasks]


def evaluate_tasks(
    run: LoadedCheckpoint,
    prepared: Sequence[PreparedTask],
    results: str | Path | None,
    report: Callable[[str], None],
    seconds: float = SECONDS,
) -> dict[str, dict]:
    """The metrics of each task by its name. `results`: the folder that keeps the result of every example; None: the
    folder tasks/STEP of the run. `seconds`: between lines of progress. Raises DataError, RunError."""
    folder = results_folder(run, results)
    return {one.task.name: one.evaluate(folder, report, seconds) for one in prepared}
