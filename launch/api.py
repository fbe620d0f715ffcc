"""Skald in a notebook: `from launch.api import load; run = load("runs/shakespeare@best"); run.generate("ROMEO:")`.

The Python surface of the project: what stands here keeps its names.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from launch.machine import setup

setup.prepare()  # before JAX is imported, here or below

import jax  # noqa: E402
import numpy as np  # noqa: E402

from launch.inference import scoring  # noqa: E402
from launch.inference.checkpoint import LoadedCheckpoint  # noqa: E402
from launch.inference.evaluation import evaluate  # noqa: E402
from launch.inference.export import SHARD_SIZE, export_checkpoint  # noqa: E402
from launch.inference.json_schema import read_schema_files  # noqa: E402
from launch.inference.provenance import index_opener  # noqa: E402
from launch.inference.request import TextRequest, read_requests  # noqa: E402
from launch.inference.tasks.task import Task, read_tasks  # noqa: E402
from launch.inference.text import TextGenerator  # noqa: E402
from launch.inference.text_engine import TextEngine  # noqa: E402
from launch.inference.watermark import find_watermark  # noqa: E402
from launch.quality.evaluation import Options, measure_quality  # noqa: E402
from launch.quality.grid import SHIPPED, read_grid  # noqa: E402
from model.decode.prompts import PromptError, PromptTooLong  # noqa: E402


class LoadedRun(LoadedCheckpoint):
    """A checkpoint to write with, to score and to take logits from; its `config`, `tokenizer` and `step`."""

    def __init__(self, name: str, weights: str | None = None, quantize: str | None = None):
        super().__init__(name, weights, quantize=quantize)
        self.open_index = index_opener(self)
        self.generator = TextGenerator(self.model, self.tokenizer, self.trained_length, self.stop_ids, self.open_index)
        self.forward = jax.jit(lambda model, tokens: model.logits(model.hidden(tokens)))

    def generate(
        self,
        prompt: str,
        sampler: str | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
        num_samples: int = 1,
        stop: str | Sequence[str] = (),
    ) -> list[dict]:
        """Samples of text, with the keys of `skald generate --json --logprobs`. `sampler` and `max_new_tokens`: None is
        the checkpoint's own default. A chain that left no token ends a sample with the reason `emptied`.

        Raises PromptError, SamplerError, DataError.
        """
        sampler = self.sampler if sampler is None else read_schema_files(sampler)
        count = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        texts = self.generator.generate([prompt], sampler=sampler, max_new_tokens=count, seed=seed,
                                  samples=num_samples, stops=[stop] if isinstance(stop, str) else stop)  # fmt: skip
        return [text.to_json(logprobs=True) for text in texts]

    def generate_many(
        self, requests: Iterable[str | dict], sampler: str | None = None, max_new_tokens: int | None = None
    ) -> Iterator[list[dict]]:
        """The samples of many requests at once, in their order: each as `generate` writes it alone. A request is a
        prompt, or a line of `skald generate --prompts`; one that can't be served yields one object with an `error`.

        `sampler`, `max_new_tokens`: of those that name none. Raises SamplerError, DataError.
        """
        defaults = TextRequest("", sampler and read_schema_files(sampler), max_new_tokens).with_defaults(self)
        answers = self.engine.answers(read_requests(requests, defaults))
        return (answer.to_json(logprobs=True) for answer in answers)

    @functools.cached_property
    def engine(self) -> TextEngine:
        return TextEngine(self.model, self.tokenizer, self.trained_length, self.stop_ids, open_index=self.open_index)

    def evaluate(
        self,
        text: str | Path | None = None,
        window: int | None = None,
        stride: int | None = None,
        field: str | None = None,
        examples: list[dict] | None = None,
        tasks: Sequence[str | Task] = (),
        results: str | Path | None = None,
    ) -> dict:
        """Scores of the validation split or of the file `text`, with the keys of `skald evaluate --json`. `examples`: a
        list that gets what `--examples` writes, the worst document first. `tasks`: as those of `--tasks`, or read by
        `read_tasks`; `results`: the folder that keeps the result of each of their examples."""
        read = [task for name in tasks for task in ([name] if isinstance(name, Task) else read_tasks([name]))]
        score_text = functools.partial(scoring.evaluate, self, text, window, stride, field, examples)
        has_text = any(option is not None for option in (text, window, stride, field, examples))
        return evaluate(self, score_text, has_text, read, results)

    def quality(self, grid: str | Path | None = None, **options) -> dict:
        """The content of quality.json, as `skald quality` writes it. `grid`: a TOML file, by default configs/quality/'s
        default.toml; `options`: fields of launch/quality/evaluation.py's Options, as prompts=40."""
        path = SHIPPED / "default.toml" if grid is None else Path(grid)
        return measure_quality(self, read_grid(path), Options(**options), scoring.say)

    def watermark(self, text: str, key: int, gamma: float = 0.25) -> dict:
        """What a text shows of the watermark that the sampler `watermark(key=…,gamma=…)` leaves: `tokens`,
        `green_fraction`, `z_score`, `p_value`. Give the text without its prompt. Raises SamplerError, DataError."""
        return find_watermark(text, self.tokenizer, key, gamma)

    def export(self, folder: str, dtype: str | None = None, shard_size: int = SHARD_SIZE) -> dict:
        """Writes the checkpoint as a Hugging Face folder, as `skald export` does; returns the keys of its --json."""
        checkpoint = f"{self.folder.parents[1]}@{self.step}"
        return export_checkpoint(checkpoint, folder, self.weights, dtype, shard_size).to_json()

    def logits(self, tokens) -> np.ndarray:
        """Logits of each token's successor: int [B, T] -> float32 [B, T, V], for the V ids of the tokenizer.

        Warns where rows are longer than those of training. Raises PromptError, PromptTooLong.
        """
        tokens_BT = check_tokens(tokens, self.tokenizer.vocab_size, self.model_config.context)
        if line := self.length_warning(tokens_BT.shape[1]):
            warnings.warn(line, stacklevel=2)
        logits_BTV = self.forward(self.model, tokens_BT)
        return np.asarray(logits_BTV, np.float32)[..., : self.tokenizer.vocab_size]


def check_tokens(tokens, vocab_size: int, context: int) -> np.ndarray:
    """Tokens as int32 [B, T], checked: an embedding would clip ids out of its range without a word."""
    try:
        tokens_BT = np.asarray(tokens)
    except ValueError:
        raise PromptError(
            "the rows of tokens differ in length; pad them on the right, or ask for one at a time"
        ) from None
    if tokens_BT.ndim != 2 or not tokens_BT.size or tokens_BT.dtype.kind not in "iu":
        raise PromptError(
            f"tokens are {tokens_BT.dtype} of shape {tokens_BT.shape}; they must be integers [B, T], as [[5, 9]]"
        )
    odd = tokens_BT[(tokens_BT < 0) | (tokens_BT >= vocab_size)]
    if odd.size:
        raise PromptError(f"tokens hold the id {odd[0]}; ids go from 0 to {vocab_size - 1}")
    if tokens_BT.shape[1] > context:
        raise PromptTooLong(f"rows have {tokens_BT.shape[1]} tokens and the model's context is {context}; shorten them")
    return tokens_BT.astype(np.int32)


def load(name: str, weights: str | None = None, quantize: str | None = None) -> LoadedRun:
    """Loads the checkpoint RUN, RUN@STEP, RUN@latest, RUN@best (lowest loss) or RUN@human (nearest to human text).

    `weights`: `average` or `plain`; None: the average where one was kept. `quantize`: `int8` or `int4`, in so many bits
    they are kept to write with, and `evaluate` tells the price; None: as the config says.

    Raises CheckpointError saying what there is.
    """
    return LoadedRun(name, weights, quantize)
