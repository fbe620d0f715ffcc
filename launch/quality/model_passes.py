"""What models say of texts that are written: their likelihood behind their own prompts and behind others, and the
features that MAUVE compares. Every pass counts its tokens and seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from data.errors import DataError
from launch.inference.checkpoint import LoadedCheckpoint, decoded_model
from launch.inference.likelihood import Continuation, score_continuations
from launch.inference.prompts import encode_response, encode_whole_prompt
from launch.quality.prompts import Place
from launch.quality.texts_file import Text
from model.decode.parameters import power_of_two
from model.decode.prompts import PromptError
from train.fields import ConfigError

FEATURE_TOKENS = 4096  # of rows that are read at once


class PassCosts(dict):
    """The passes over texts by a model, by name: `tokens` that it read, and `seconds` with compilation."""

    @contextmanager
    def measured(self, name: str, tokens: int) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        before = self.get(name, {"tokens": 0, "seconds": 0.0})
        self[name] = {"tokens": before["tokens"] + tokens, "seconds": round(before["seconds"] + seconds, 3)}


@dataclass(frozen=True)
class WrittenText:
    """A text of a setting, the place that it continues, and the index of that among all."""

    place: Place
    index: int
    text: Text


def read_tokens(requests: Sequence[Continuation]) -> int:
    """Tokens that a model reads to score these: each prompt once, and the continuations."""
    prompts = {request.prompt for request in requests}
    return sum(map(len, prompts)) + sum(len(request.continuation) for request in requests)


def nats_of(run: LoadedCheckpoint, requests: Sequence[Continuation]) -> np.ndarray:
    """-log p(continuation | prompt) of each request in nats, float64 [N]; 0 where the continuation has no token."""
    nats = np.zeros(len(requests))
    numbers = [number for number, request in enumerate(requests) if request.continuation]
    for position, score in score_continuations(run, [requests[number] for number in numbers]):
        nats[numbers[position]] = score.nats
    return nats


def own_requests(texts: Sequence[WrittenText]) -> list[Continuation]:
    return [Continuation(text.place.prompt, text.text.tokens) for text in texts]


def shuffled_requests(
    texts: Sequence[WrittenText], places: Sequence[Place], count: int, seed: int
) -> list[Continuation]:
    """Each text behind the prompts of `count` other places, those of a text after one another.

    The others stand `count` random distances further on in the circle of places, the same for all texts and settings:
    so each prompt is the wrong one as often as any other."""
    distances = np.random.default_rng(seed).permutation(np.arange(1, len(places)))[:count].tolist()
    return [
        Continuation(places[(text.index + distance) % len(places)].prompt, text.text.tokens)
        for text in texts
        for distance in distances
    ]


def judge_requests(judge: LoadedCheckpoint, run: LoadedCheckpoint, texts: Sequence[WrittenText]) -> list[Continuation]:
    """The texts in the tokens of another model, prompt and text encoded apart, so that the nats are of the text's own
    bytes. Raises DataError for characters that its tokenizer does not know, PromptError."""
    if judge.metadata["tokenizer"] == run.metadata["tokenizer"]:
        return own_requests(texts)
    found = []
    for text in texts:
        prompt = run.tokenizer.decode(list(text.place.prompt))
        ids = encode_whole_prompt(prompt, judge.tokenizer)
        found.append(Continuation(tuple(ids), tuple(encode_response(prompt, text.text.text, judge.tokenizer))))
    return found


def check_judge(judge: LoadedCheckpoint, run: LoadedCheckpoint, places: Sequence[Place]) -> None:
    """Raises ConfigError where a judge can't read what people wrote at these places."""
    human = [
        WrittenText(place, index, Text(place.human, run.tokenizer.decode(list(place.human)), "length", 0.0))
        for index, place in enumerate(places)
    ]
    context = min(judge.trained_length, judge.model_config.context)
    try:
        longest = max(len(request.continuation) for request in judge_requests(judge, run, human))
    except (PromptError, DataError) as error:
        raise ConfigError(f"--judge {judge.name}: it can't read the held-out text: {error}") from None
    if longest > context:
        raise ConfigError(
            f"--judge {judge.name}: {longest} tokens of it are in a text of people, and it was trained on {context} at "
            "a time; take shorter texts (--new-tokens), or another judge"
        )


def last_hidden_states(run: LoadedCheckpoint, texts: Sequence[WrittenText]) -> np.ndarray:
    """The model's last hidden state, behind its final norm, at the last token of each prompt with its text: float32
    [N, D]. That is the feature of Pillutla et al. 2021, section 3.2, with this model in the place of GPT-2."""
    model = decoded_model(run)
    rows = [[*text.place.prompt, *text.text.tokens][-run.trained_length :] for text in texts]
    order, features = np.argsort([len(row) for row in rows], kind="stable"), {}
    count = max(1, FEATURE_TOKENS // power_of_two(max(map(len, rows))))
    for start in range(0, len(rows), count):
        part = order[start : start + count].tolist()
        length = power_of_two(max(len(rows[number]) for number in part))
        length = min(length, run.model_config.context)
        tokens_BT, last_B = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
        for position, number in enumerate(part):
            tokens_BT[position, : len(rows[number])], last_B[position] = rows[number], len(rows[number]) - 1
        hidden_BD = jax.device_get(hidden_at(model, tokens_BT, last_B))
        features |= dict(zip(part, hidden_BD, strict=False))
    return np.stack([features[number] for number in range(len(rows))])


@jax.jit
def hidden_at(model, tokens_BT, last_B) -> jax.Array:
    """The hidden state of one token a row, float32 [B, D]."""
    hidden_BTD = model.hidden(tokens_BT)
    return jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def text_bytes(texts: Sequence[WrittenText]) -> np.ndarray:
    """Bytes of UTF-8 of each text, times log 2: nats over these are bits a byte. float64 [N]."""
    return math.log(2) * np.array([len(text.text.text.encode("utf-8", "surrogatepass")) for text in texts], float)
