"""Log-likelihoods of continuations given prompts, with a checkpoint: batched, over all devices that are here.

A prompt that several requests share is read once, and so is the beginning that many prompts share (few-shot examples).
launch/inference/harness.py calls it, and what scores tasks; the programs are train/continuations.py's.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from launch.inference.checkpoint import NOT_FINITE, LoadedCheckpoint
from launch.inference.devices import on_every_device, on_mesh, replica_mesh
from launch.inference.likelihood_batches import Batch, Extension, Prompt, Reading, batches, extensions
from launch.inference.prompts import encode_whole_prompt
from model.decode.prompts import PromptError, PromptTooLong
from model.transformer import Transformer
from train import in_flight
from train.continuations import Likelihoods, jitted_programs, jitted_score_first
from train.run import RunError


class Continuation(NamedTuple):
    """What is scored: ids of a continuation, one at least, and of the prompt before it, one at least."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class ContinuationScore(NamedTuple):
    """`nats`: -log p(continuation | prompt). `is_greedy`: whether each of its `tokens` is the most likely one."""

    nats: float
    tokens: int
    is_greedy: bool


def encode_continuation(tokenizer, prompt: str, continuation: str) -> Continuation:
    """Ids of a continuation and its prompt, as lm-evaluation-harness (0.4.13) finds them in `_encode_pair`.

    Both are encoded together, and what is behind the ids of the prompt alone is the continuation: so it may begin with
    a token that it would not have by itself. White space at the prompt's end goes to the continuation first. A start
    token stands before prompts as `encode_prompt` puts it there. An empty prompt is the tokenizer's start token or, if
    it has none, its end token; a continuation that begins with that token is not given it again.

    Raises PromptError where the continuation has no token left, or nothing can stand for an empty prompt; DataError.
    """
    trimmed = prompt.rstrip()
    spaces = prompt[len(trimmed) :]
    if not trimmed:
        return behind_empty_prompt(tokenizer, spaces + continuation)
    ids, whole = (encode_whole_prompt(text, tokenizer) for text in (trimmed, prompt + continuation))
    return checked(Continuation(tuple(ids), tuple(whole[len(ids) :])), continuation)


def behind_empty_prompt(tokenizer, continuation: str) -> Continuation:
    prefix = prefix_id(tokenizer)
    if prefix is None:
        raise PromptError(
            f"the prompt before {continuation[:40]!r} is empty, and the tokenizer has no token that begins or ends a "
            "text to stand for it; write one"
        )
    ids = tuple(tokenizer.encode(continuation))
    return checked(Continuation((prefix,), ids[ids[:1] == (prefix,) :]), continuation)


def prefix_id(tokenizer) -> int | None:
    """The token that stands for an empty prompt."""
    return tokenizer.end_id if tokenizer.start_id is None else tokenizer.start_id


def checked(request: Continuation, text: str) -> Continuation:
    if not request.continuation:
        raise PromptError(
            f"the continuation {text[:40]!r} has no token behind its prompt: it is empty, or the prompt's last token "
            "takes it in; write more of it"
        )
    return request


def score_continuations(
    run: LoadedCheckpoint, requests: Sequence[Continuation]
) -> Iterator[tuple[int, ContinuationScore]]:
    """Yields (index, score) of every request, as they are computed, not in their order.

    The model sees the last tokens of a prompt that is too long for the rows that it was trained on; one line says how
    many prompts are. Raises PromptError for a request without a prompt or continuation, PromptTooLong where a
    continuation alone is too long, both before anything is computed; RunError where probabilities are no numbers.
    """
    if run not in SCORERS:
        SCORERS[run] = ContinuationScorer(run)
    return SCORERS[run].scores(requests)


class ContinuationScorer:
    """Scores continuations with the model of a run, whose weights it prepares once, as a decoder has them.

    `devices`: those that share the rows, by default all.
    """

    def __init__(self, run: LoadedCheckpoint, devices: list | None = None):
        self.name, self.vocab_size = run.name, run.tokenizer.vocab_size
        self.context = min(run.trained_length, run.model_config.context)
        self.mesh = replica_mesh(devices)
        self.devices = self.mesh.size if self.mesh else 1
        with on_mesh(self.mesh):
            model = jax.jit(Transformer.for_decoding)(on_every_device(run.model))
            self.leaves, structure = jax.tree.flatten(model)
        self.programs = jitted_programs(structure)
        self.read = None  # the prompts that the programs go on from

    def scores(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, ContinuationScore]]:
        prompts = self.prompts(requests)
        return self.stream(requests, batches(prompts, self.devices))

    def prompts(self, requests: Sequence[Continuation]) -> list[Prompt]:
        """Every prompt once, with the requests that have it. Raises PromptError, PromptTooLong."""
        indices, cut = defaultdict(list), 0
        for index, request in enumerate(requests):
            self.check(index, request)
            room = self.context + 1 - len(request.continuation)  # the last token is predicted, and not read
            cut += len(request.prompt) > room
            indices[tuple(request.prompt[-room:])].append(index)
        if cut:
            print(
                f"{cut} of {len(requests)} prompts are longer than the {self.context} tokens that {self.name} was "
                "trained on at a time: it reads the last ones",
                file=sys.stderr,
            )
        return [
            Prompt(ids, [(index, tuple(requests[index].continuation)) for index in own]) for ids, own in indices.items()
        ]

    def check(self, index: int, request: Continuation) -> None:
        """Raises PromptError, PromptTooLong for a request that can't be scored."""
        prompt, continuation = request
        if not prompt or not continuation:
            raise PromptError(f"request {index}: its prompt or its continuation has no token; give each one at least")
        if not 0 <= min(*prompt, *continuation) <= max(*prompt, *continuation) < self.vocab_size:
            raise PromptError(
                f"request {index} holds an id that is none of the tokenizer's, 0 to {self.vocab_size - 1}"
            )
        if len(continuation) > self.context:
            raise PromptTooLong(
                f"request {index}: its continuation has {len(continuation)} tokens and {self.name} was trained on "
                f"{self.context} at a time; shorten it"
            )

    def stream(
        self, requests: Sequence[Continuation], planned: Iterable[Batch]
    ) -> Iterator[tuple[int, ContinuationScore]]:
        jobs, kept = itertools.tee(job for batch in planned for job in (batch.reading, *extensions(batch)))
        first: dict[int, tuple[float, bool]] = {}
        for job, found in zip(kept, in_flight.bounded_map(self.dispatch, jobs), strict=True):
            for index, nats, is_greedy in job.scored(found):
                tokens = len(requests[index].continuation)
                if isinstance(job, Reading) and tokens > 1:
                    first[index] = nats, is_greedy
                    continue
                before, was_greedy = first.pop(index, (0.0, True))
                if not np.isfinite(before + nats):
                    raise RunError(f"{self.name}: the probability of a continuation is no number; {NOT_FINITE}")
                yield index, ContinuationScore(before + nats, tokens, was_greedy and is_greedy)
        self.read = None  # the last batch's caches

    def dispatch(self, job: Reading | Extension) -> Likelihoods:
        size = {"vocab_size": self.vocab_size}
        with on_mesh(self.mesh):
            if isinstance(job, Extension):
                return self.programs.score_rest(self.leaves, self.read.cache, *job.arrays, **size)
            if job.prefix is None:
                self.read = self.programs.start_prompts(self.leaves, *job.arrays, slots=job.slots, **size)
            else:
                before = self.programs.start_prompts(self.leaves, *job.prefix, slots=job.slots, **size)
                rows = np.zeros_like(job.arrays[1])
                self.read = self.programs.extend_prompts(self.leaves, before.cache, rows, *job.arrays, **size)
            return jitted_score_first(self.read.logits_BV, *job.first)


SCORERS: weakref.WeakKeyDictionary[LoadedCheckpoint, ContinuationScorer] = weakref.WeakKeyDictionary()
