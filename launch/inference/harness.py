"""A checkpoint as a model of lm-evaluation-harness (Gao et al., package lm_eval), and its tasks: `skald evaluate RUN
--harness TASKS`. Importing it imports the package, which is optional: launch/commands/harness.py does when asked.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each of its loops, read when tqdm is imported

import datasets
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from data.errors import DataError
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.likelihood import Continuation, encode_continuation, prefix_id, score_continuations
from launch.inference.prompts import encode_whole_prompt
from launch.inference.request import TextRequest
from launch.inference.text_engine import TextEngine
from train.fields import ConfigError

VERSION = metadata.version("lm_eval")
NEW_TOKENS = 256  # of a text, where its task says no number: that of the package's own models
NAMES_OF_LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_k", "top_p")


def evaluate_tasks(run: LoadedCheckpoint, names: Sequence[str], include: str | None = None) -> dict[str, dict]:
    """Metrics of tasks, groups or tags by name: {task: {metric: value, …}}, each with `examples`, their number, and the
    `harness`'s version. `include`: a folder with task files of one's own.

    A metric's name has that of its filter behind it, unless there is none. Raises ConfigError for a name that is none,
    DataError where a task's data can't be read.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # else a line for each default of each task
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs it raises as well
    datasets.disable_progress_bars()
    tasks = find_tasks(names, include)
    with explain_errors(", ".join(names)):
        loaded = tasks.load(list(names))
    if not loaded["tasks"]:
        raise ConfigError(f"--harness {','.join(names)}: no task in it")
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:  # from here on as the package's simple_evaluate, which also asks git
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    found = evaluator.evaluate(HarnessModel(run), loaded, log_samples=False)
    return {name: task_metrics(values) for name, values in found["results"].items()}


def task_metrics(values: dict) -> dict:
    """The numbers of a task among what the package says of it."""
    metrics = {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and not isinstance(value, str)
    }
    return {**metrics, "examples": values["sample_len"], "harness": VERSION}


def find_tasks(names: Sequence[str], include: str | None) -> TaskManager:
    """The index of tasks that has these names. Raises ConfigError where one is none of a task, a group or a tag."""
    if include is not None and not Path(include).is_dir():
        raise ConfigError(f"--include {include}: no such folder; name one that holds task files (*.yaml)")
    own = TaskManager(include_path=include, include_defaults=False) if include else None
    if own and set(names) <= set(own.all_subtasks):
        return own  # the index of its own tasks takes seconds
    tasks = TaskManager(include_path=include)
    for name in names:
        if name not in tasks.all_tasks:
            close = difflib.get_close_matches(name, tasks.all_tasks, n=3)
            right = f"the nearest are {', '.join(close)}" if close else f"it has {len(tasks.all_tasks):,} others"
            where = f"neither {include} nor lm-evaluation-harness" if include else "lm-evaluation-harness"
            has = "has such a task" if include else "has no such task"
            raise ConfigError(f"--harness {name}: {where} {VERSION} {has}; {right}")
    return tasks


@contextlib.contextmanager
def explain_errors(names: str) -> Iterator[None]:
    """Turns what the package and `datasets` raise where a task can't be loaded into a DataError of one line."""
    try:
        yield
    except StopIteration:  # the package looks at a task's first example
        raise DataError(f"--harness {names}: no example in its data; give it one at least") from None
    except (OSError, ValueError, KeyError, ImportError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error  # `datasets` says that it failed; what it was made of says why
        raise DataError(f"--harness {names}: {' '.join(str(cause).split())}") from None


class HarnessModel(LM):
    """A checkpoint as the package calls it. It sees as many tokens at a time as rows of its training had."""

    def __init__(self, run: LoadedCheckpoint):
        super().__init__()
        self.run = run
        self.context = min(run.trained_length, run.model_config.context)

    @cached_property
    def engine(self) -> TextEngine:
        return CuttingEngine(self.run.model, self.run.tokenizer, self.context, self.run.stop_ids)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log p of the continuation in nats, whether it is the greedy one) of each (context, continuation)."""
        encoded = [encode_continuation(self.run.tokenizer, *request.args) for request in requests]
        found = dict(score_continuations(self.run, encoded))
        return [(-found[index].nats, found[index].is_greedy) for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """log p in nats of each text, in windows that the package makes: each token is predicted once, the first behind
        the token that stands for an empty prompt. Where the tokenizer has none, the first is not predicted."""
        windows = [self.windows(text) for (text,) in (request.args for request in requests)]
        owners = [index for index, own in enumerate(windows) for _ in own]
        total = [0.0] * len(requests)
        for index, score in score_continuations(self.run, [window for own in windows for window in own]):
            total[owners[index]] -= score.nats
        return total

    def windows(self, text: str) -> list[Continuation]:
        tokens = encode_whole_prompt(text, self.run.tokenizer) if text else []
        prefix = prefix_id(self.run.tokenizer)
        if prefix is None and tokens:
            prefix, *tokens = tokens
        windows = get_rolling_token_windows(tokens, prefix, max_seq_len=self.context, context_len=1)
        return [Continuation(*map(tuple, make_disjoint_window(window))) for window in windows]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The text behind each (context, options), up to the first of its stop texts; greedy unless the options say
        `do_sample`. Raises ConfigError for an option that is not known here, DataError for a text that can't be."""
        answers = self.engine.answers(text_request(*request.args) for request in requests)
        return [answer_text(answer) for answer in answers]


def answer_text(answer) -> str:
    if answer.error is not None:
        raise DataError(f"the prompt {answer.request.prompt[:40]!r}: {answer.error}")
    return answer.samples[0].text


def text_request(prompt: str, options: dict) -> TextRequest:
    """A task's `generation_kwargs` as a request of ours. Raises ConfigError."""
    options = dict(options)
    until = options.pop("until", None) or []
    lengths = [options.pop(name) for name in NAMES_OF_LENGTH if name in options]
    drawn = options.pop("do_sample", False)
    links = {name: options.pop(name) for name in SAMPLING if name in options}
    if options:
        known = ", ".join(["until", "do_sample", *SAMPLING, *NAMES_OF_LENGTH])
        raise ConfigError(f"generation_kwargs: no {next(iter(options))!r} here; there are {known}")
    sampler = ",".join(f"{name}={value}" for name, value in links.items()) if drawn else "greedy"
    stops = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return TextRequest(prompt, sampler, lengths[0] if lengths else NEW_TOKENS, stop=stops)


class CuttingEngine(TextEngine):
    """A TextEngine that cuts prompts on the left, so that the context has room for all new tokens, as the package's own
    models do; for half of it at most."""

    def encode_prompt(self, request: TextRequest) -> list[int]:
        ids = encode_whole_prompt(request.prompt, self.tokenizer)
        return ids[-max(self.context - request.max_new_tokens, self.context // 2) :]
