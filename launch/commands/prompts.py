"""`skald generate RUN --prompts FILE`: the texts of many requests at once, as JSON lines in the order of the file."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.store.progress import ProgressLine
from launch.commands.progress import ProgressReport
from launch.inference.answers_file import AnswersFile, answer_lines, request_digest
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.request import TextRequest
from launch.inference.text_engine import TextAnswer, TextEngine
from train.run import RunError

SECONDS = 0.5  # between lines of progress


def answer_prompts(
    run: LoadedCheckpoint, engine: TextEngine, requests: Sequence[TextRequest], arguments: Namespace
) -> int:
    """Answers all requests that `--out` does not answer yet. Raises RunError in the end where some could not be served,
    DataError for a file that can't be gone on with."""
    digests = [request_digest(request, conditions(run, arguments)) for request in requests]
    file = AnswersFile(Path(arguments.out), requests, digests) if arguments.out else None
    collected: list[str] = []
    write = file.write if file else collected.extend if arguments.json else print_lines
    failed, done = (file.failed, file.done) if file else (0, 0)
    if done:
        print(f"[{done} of {len(requests)} prompts are answered in {arguments.out} already]", file=sys.stderr)
    progress = PromptsProgress(engine, requests, done, may_show=arguments.out or not sys.stdout.isatty())
    for digest, answer in zip(digests[done:], engine.answers(requests[done:], progress.show), strict=True):
        write(answer_lines(answer, digest, arguments.logprobs))
        failed += answer.failed
        progress.add(answer)
    if arguments.json:
        print(json.dumps({"step": run.step, "samples": [json.loads(line) for line in collected]}, ensure_ascii=False))
    print(f"[{progress.done - done} prompts, {engine.summary(progress.seconds)}]", file=sys.stderr)
    if failed:
        raise RunError(f'{failed} of {len(requests)} prompts could not be served; "error" in their lines says why')
    return 0


def conditions(run: LoadedCheckpoint, arguments: Namespace) -> dict:
    """What the lines of all requests depend on, beside the requests. Drafts are not among it: they change no text."""
    return {
        "checkpoint": run.digest,
        "weights": arguments.weights,
        "cache": run.execution.cache,
        "invariant": arguments.invariant,
        "logprobs": arguments.logprobs,
    }


def print_lines(lines: list[str]) -> None:
    print("".join(lines), end="", flush=True)


class PromptsProgress:
    """Shows on a terminal how far the prompts are. `done`: how many are answered. `left`: tokens that the others ask
    for at most."""

    def __init__(self, engine: TextEngine, requests: Sequence[TextRequest], done: int, may_show: bool):
        self.engine, self.total, self.done = engine, len(requests), done
        self.left = sum(map(most_tokens, requests[done:]))
        self.answered = 0  # tokens of answers
        self.report = ProgressReport()
        self.shows = may_show and self.report.on_terminal
        self.started = self.shown = time.monotonic()

    def add(self, answer: TextAnswer) -> None:
        self.done += 1
        self.left -= most_tokens(answer.request)
        self.answered += sum(len(text.completion.tokens) for text in answer.samples)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def show(self) -> None:
        """Shows a line, if the last one is old enough."""
        now = time.monotonic()
        if not self.shows or now - self.shown < SECONDS:
            return
        self.shown = now
        written = self.engine.tokens
        line = f"{self.done:,} of {self.total:,} prompts  {written:,} tokens  {written / self.seconds:,.0f} tokens/s"
        if written:
            left = (self.left - (written - self.answered)) / written * self.seconds
            line += f"  at most {int(left // 60)}:{int(left % 60):02} left"
        self.report(ProgressLine(line))


def most_tokens(request: TextRequest) -> int:
    return request.max_new_tokens * request.num_samples
