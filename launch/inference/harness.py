"""A checkpoint as a model of lm-evaluation-harness (Gao et al., package lm_eval), and its tasks: `skald evaluate RUN
--harness TASKS`. Importing it imports the package, which is optional: launch/commands/harness.py does when asked.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each of its loops, read when tqdm is imported

import datasets
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, hash_string, make_disjoint_window

from data.errors import DataError
from data.whole_file import whole_file
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.harness_generation import text_request
from launch.inference.harness_tasks import VERSION, checked_building, find_tasks, load_all, place_of
from launch.inference.likelihood import Continuation, encode_continuation, prefix_id, score_continuations
from launch.inference.prompts import encode_whole_prompt
from launch.inference.request import TextRequest
from launch.inference.results_folder import results_folder
from launch.inference.tasks.results import digest
from launch.inference.text_engine import TextEngine
from train.fields import ConfigError


def evaluate_tasks(
    run: LoadedCheckpoint, names: Sequence[str], include: str | None = None, results: str | Path | None = None
) -> dict[str, dict]:
    """Metrics of tasks, groups or tags by name: {task: {metric: value, …}}, each with `examples`, their number, the
    `harness`'s version, and of a task the file of its examples' `results`. A group that has no metrics of its own, but
    those of its tasks alone, is left out. `include`: a folder with task files of one's own; `results`: a folder for
    results, as of results_folder.

    A metric's name has that of its filter behind it, unless there is none. Raises ConfigError for a name that is none,
    DataError where a task's data can't be read, or do not have what its templates name: before anything is scored.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # else a line for each default of each task
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs it raises as well
    datasets.disable_progress_bars()
    folder = results_folder(run, results)
    tasks = find_tasks(names, include)
    loaded = load_all(tasks, names)
    if not loaded["tasks"]:
        raise ConfigError(f"--harness {','.join(names)}: no task in it")
    for name, task in loaded["tasks"].items():
        if task.get_config("num_fewshot") is None:  # from here on as the package's simple_evaluate, which also asks git
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        task.build_all_requests = checked_building(task, place_of(tasks, name))
    found = evaluator.evaluate(HarnessModel(run), loaded)
    metrics = {name: task_metrics(own) for name, own in found["results"].items() if "sample_len" in own}
    for name, samples in found["samples"].items():
        metrics[name]["results"] = str(write_samples(folder, name, run, samples))
    return metrics


def write_samples(folder: Path, name: str, run: LoadedCheckpoint, samples: Sequence[dict]) -> Path:
    """Writes what the package keeps of a task's examples as JSON lines, one for each example and filter. Another
    checkpoint, task or text has another file."""
    of_run = {"checkpoint": run.digest, "weights": run.weights, "quantize": run.execution.quantize}
    asked = [json.dumps(sample["arguments"], default=handle_non_serializable) for sample in samples]
    examples = [
        [sample["doc_hash"], sample["target_hash"], hash_string(own)]
        for sample, own in zip(samples, asked, strict=True)
    ]
    own = digest(of_run | {"harness": VERSION, "examples": examples})
    path = folder / f"{name.replace('/', '_')}-{own[:8]}.jsonl"
    with whole_file(path) as out:
        out.writelines(f"{json.dumps(sample, default=handle_non_serializable)}\n".encode() for sample in samples)
    return path


def task_metrics(values: dict) -> dict:
    """The numbers of a task among what the package says of it."""
    metrics = {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and isinstance(value, Real)
    }
    return {**metrics, "examples": values["sample_len"], "harness": VERSION}


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
        """The text behind each (context, options), up to the first of its stop texts; draws of a repeated request
        differ. Raises ConfigError for an option that is not known here, DataError for a text that can't be."""
        own = [text_request(self.run, *request.args, seed=number) for number, request in enumerate(requests)]
        return [answer_text(answer) for answer in self.engine.answers(own)]


def answer_text(answer) -> str:
    if answer.error is not None:
        raise DataError(f"the prompt {answer.request.prompt[:40]!r}: {answer.error}")
    return answer.samples[0].text


class CuttingEngine(TextEngine):
    """A TextEngine that cuts prompts on the left, so that the context has room for all new tokens, as the package's own
    models do; for half of it at most."""

    def encode_prompt(self, request: TextRequest) -> list[int]:
        ids = encode_whole_prompt(request.prompt, self.tokenizer)
        return ids[-max(self.context - request.max_new_tokens, self.context // 2) :]
