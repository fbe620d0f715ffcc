"""What a person asks for, as values: prompt, sampler, seed, limits. The lines of `--prompts` and run.generate_many give
them; launch/inference/text_engine.py serves them.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from data.errors import DataError
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.json_schema import read_schema_files
from model.decode.chain import SamplerError


@dataclass(frozen=True)
class TextRequest:
    """A request for texts behind one prompt. `stop`: texts that end them; `id`: the asker's own name for it.

    `sampler`, `max_new_tokens`: None is the checkpoint's own default.
    """

    prompt: str
    sampler: str | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    id: str | int | None = None

    def with_defaults(self, run: LoadedCheckpoint) -> TextRequest:
        """The request with a checkpoint's defaults where it leaves them open."""
        sampler = run.sampler if self.sampler is None else self.sampler
        count = run.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        return replace(self, sampler=sampler, max_new_tokens=count)


def read_requests(values: Iterable[Any], defaults: TextRequest) -> Iterator[TextRequest]:
    """Requests from JSON values. Raises DataError with the number of the value."""
    for number, value in enumerate(values):
        try:
            yield read_request(value, defaults)
        except DataError as error:
            raise DataError(f"request {number}: {error}") from None


def read_request(value: Any, defaults: TextRequest) -> TextRequest:
    """A request from JSON: a text, or an object with `prompt` and any other fields of TextRequest.

    Raises DataError, whose message is the end of a line.
    """
    values = {"prompt": value} if isinstance(value, str) else value
    names = [field.name for field in fields(TextRequest)]
    if unknown := [name for name in values if name not in names] if isinstance(values, dict) else []:
        close = difflib.get_close_matches(unknown[0], names, n=1)
        right = f"did you mean {close[0]!r}?" if close else f"a request has {', '.join(names)}"
        raise DataError(f"a request has no {unknown[0]!r}; {right}")
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
        shown = json.dumps(value, ensure_ascii=False)[:60]
        raise DataError(f'each line is {{"prompt": "…"}} or a JSON string, not {shown}')
    return replace(defaults, **{name: read_field(name, own) for name, own in values.items()})


def read_field(name: str, value: Any) -> Any:
    """One field of a request, checked. Raises DataError."""
    read, expected = FIELDS[name]
    try:
        return read(value)
    except SamplerError as error:
        raise DataError(str(error)) from None
    except (TypeError, ValueError):
        shown = json.dumps(value, ensure_ascii=False)[:60]
        raise DataError(f"{name} is {shown}; it takes {expected}") from None


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def positive(value: Any) -> int:
    if number(value) < 1:
        raise ValueError
    return value


def stop_texts(value: Any) -> tuple[str, ...]:
    texts = tuple(map(text, value if isinstance(value, list | tuple) else [value]))
    if "" in texts:
        raise ValueError
    return texts


def sampler(value: Any) -> str:
    """The shorthand of a chain, from either of its forms."""
    return shorthand(json.dumps(value) if isinstance(value, list) else text(value))


shorthand = functools.lru_cache(maxsize=256)(read_schema_files)  # of many requests most have the same

FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prompt": (text, "a text"),
    "sampler": (sampler, 'a chain, as "temperature=0.8,top_p=0.95", or its JSON form'),
    "max_new_tokens": (positive, "a whole number from 1"),
    "seed": (number, "a whole number"),
    "num_samples": (positive, "a whole number from 1"),
    "stop": (stop_texts, "a text that is not empty, or a list of them"),
    "id": (lambda value: value if isinstance(value, str) else number(value), "a text or a whole number"),
}
