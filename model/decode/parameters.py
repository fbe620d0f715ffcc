"""The parameters of links and strategies: how a person writes them, what is refused, how many rows' are stacked.

A field of a link is declared with `parameter(Number(…))`. chain.py reads and writes chains by these declarations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


class Parameter(Protocol):
    """A kind of parameter. `expected`: what works, as an error message says it."""

    expected: str

    def read(self, value: Any) -> Any:
        """What a person wrote, a JSON value or the text of one word, as the field's value. Raises ValueError."""
        ...

    def write(self, value: Any) -> Any:
        """The field's value as a JSON value."""
        ...

    def stack(self, values: Sequence[Any]) -> Any:
        """The values of many rows as one array, or a pytree of some, with an axis B in front."""
        ...


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`; `above`: one that it must be greater than, instead of `least`."""

    expected: str
    least: float = -np.inf
    most: float = np.inf
    above: float = -np.inf
    whole: bool = False

    def read(self, value: Any) -> float | int:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = (int if self.whole and not isinstance(value, float) else float)(value)
        if not (self.least <= number <= self.most and number > self.above and abs(number) < np.inf):
            raise ValueError
        if self.whole and number != int(number):
            raise ValueError
        return int(number) if self.whole else number

    def write(self, value: float | int) -> float | int:
        return int(value) if value == int(value) else value

    def stack(self, values: Sequence[float | int]) -> np.ndarray:
        return np.array(values, np.int32 if self.whole else np.float32)


@dataclass(frozen=True)
class Key:
    """A key for random bits: a whole number below 2^64, stacked as two words of 32 bits, the greater first."""

    expected: str

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        if not 0 <= int(value) < 2**64:
            raise ValueError
        return int(value)

    def write(self, value: int) -> int:
        return value

    def stack(self, values: Sequence[int]) -> np.ndarray:
        return np.array([divmod(value, 2**32) for value in values], np.uint32)


@dataclass(frozen=True)
class Word:
    """One of a few words; true and false are words, too. Rows' words are stacked as their places in `words`."""

    expected: str
    words: tuple[str | bool, ...]

    def read(self, value: Any) -> str | bool:
        for word in self.words:
            if str(value).lower() == str(word).lower():
                return word
        raise ValueError

    def write(self, value: str | bool) -> str | bool:
        return value

    def stack(self, values: Sequence[str | bool]) -> np.ndarray:
        return np.array([self.words.index(value) for value in values], np.int32)


@dataclass(frozen=True)
class Phrases:
    """Texts, or lists of ids. Texts become ids before rows are stacked, since that takes a tokenizer."""

    expected: str

    def read(self, value: Any) -> tuple[str | tuple[int, ...], ...]:
        items = value if isinstance(value, list | tuple) else [value]
        phrases = tuple(item if isinstance(item, str) else tuple(item) for item in items)
        if not phrases or not all(phrases):
            raise ValueError
        if not all(isinstance(p, str) or all(type(i) is int and 0 <= i < 2**31 for i in p) for p in phrases):
            raise ValueError
        return phrases

    def write(self, value: tuple) -> Any:
        items = [phrase if isinstance(phrase, str) else list(phrase) for phrase in value]
        return items[0] if len(items) == 1 and isinstance(items[0], str) else items

    def stack(self, values: Sequence[tuple[tuple[int, ...], ...]]) -> np.ndarray:
        return stack_phrases(values)

    def texts(self, value: tuple) -> list[str]:
        """What has no ids yet."""
        return [phrase for phrase in value if isinstance(phrase, str)]


class StackedBiases(NamedTuple):
    """The amounts of many rows for phrases of ids."""

    phrases_BNL: np.ndarray
    amounts_BN: np.ndarray


@dataclass(frozen=True)
class Biases:
    """Amounts from -10000 to 10000 for texts or phrases of ids: pairs. Texts become ids as those of Phrases do.

    A person writes an object, in which a name of digits is an id, or a list of pairs, in which it is a text.
    """

    expected: str

    def read(self, value: Any) -> tuple[tuple[str | tuple[int, ...], float], ...]:
        if isinstance(value, dict):
            pairs = [((int(name),) if is_id(name) else name, amount) for name, amount in value.items()]
        else:
            pairs = [((name,) if type(name) is int else name, amount) for name, amount in value]
        amounts = [float(amount) for _, amount in pairs if not isinstance(amount, bool | str)]
        if len(amounts) < len(pairs) or not all(abs(amount) <= 1e4 for amount in amounts):
            raise ValueError
        phrases = Phrases(self.expected).read([phrase for phrase, _ in pairs])
        if len(set(phrases)) < len(phrases):
            raise ValueError
        return tuple(zip(phrases, amounts, strict=True))

    def write(self, value: tuple) -> Any:
        """An object where that says it all, else pairs."""
        amounts = [int(amount) if amount == int(amount) else amount for _, amount in value]
        phrases = [phrase if isinstance(phrase, str) else list(phrase) for phrase, _ in value]
        if any(is_id(phrase) if isinstance(phrase, str) else len(phrase) > 1 for phrase in phrases):
            return [[phrase, amount] for phrase, amount in zip(phrases, amounts, strict=True)]
        names = [phrase if isinstance(phrase, str) else str(phrase[0]) for phrase in phrases]
        return dict(zip(names, amounts, strict=True))

    def stack(self, values: Sequence[tuple[tuple[tuple[int, ...], float], ...]]) -> StackedBiases:
        phrases_BNL = stack_phrases([[phrase for phrase, _ in biases] for biases in values])
        amounts_BN = np.zeros(phrases_BNL.shape[:2], np.float32)
        for row, biases in enumerate(values):
            amounts_BN[row, : len(biases)] = [amount for _, amount in biases]
        return StackedBiases(phrases_BNL, amounts_BN)

    def texts(self, value: tuple) -> list[str]:
        """What has no ids yet."""
        return [phrase for phrase, _ in value if isinstance(phrase, str)]


def is_id(name: str) -> bool:
    """Whether a name of a JSON object is an id in decimal digits."""
    return name.isascii() and name.isdigit() and str(int(name)) == name


def stack_phrases(values: Sequence[Sequence[tuple[int, ...]]]) -> np.ndarray:
    """int32 [B, N, L]: N phrases of at most L ids for each row, padded with -1; N and L are powers of two."""
    count = power_of_two(max(map(len, values)))
    length = power_of_two(max((len(phrase) for phrases in values for phrase in phrases), default=1))
    stacked_BNL = np.full((len(values), count, length), -1, np.int32)
    for row, phrases in enumerate(values):
        for index, phrase in enumerate(phrases):
            stacked_BNL[row, index, : len(phrase)] = phrase
    return stacked_BNL


@dataclass(frozen=True)
class Prompt:
    """A text, or a list of ids, that a source reads before the first new token. Only prefill reads it, from the row's
    own chain: a text becomes ids before, since that takes a tokenizer."""

    expected: str

    def read(self, value: Any) -> str | tuple[int, ...]:
        if isinstance(value, list | tuple) and value and all(type(i) is int and 0 <= i < 2**31 for i in value):
            return tuple(value)
        if not isinstance(value, str) or not value:
            raise ValueError
        return value

    def write(self, value: str | tuple[int, ...]) -> Any:
        return value if isinstance(value, str) else list(value)

    def stack(self, values: Sequence[str | tuple[int, ...]]) -> np.ndarray:
        """int32 [B, 0]: prompts of other lengths need no other program to draw."""
        return np.zeros((len(values), 0), np.int32)


@dataclass(frozen=True)
class Name:
    """The name of what a program is made for, such as a run. Such a parameter is static, and so no rows are stacked."""

    expected: str

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError
        return value

    def write(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Text(Name):
    """A text that is compiled on the host, such as a regular expression: data, but never stacked."""

    def stack(self, values: Sequence[str]) -> np.ndarray:
        raise TypeError("a grammar is no array; constraint.with_masks puts one in its place")


@dataclass(frozen=True)
class Schema(Text):
    """A JSON schema as JSON, or the name of a file with one."""

    def read(self, value: Any) -> dict | bool | str:
        if isinstance(value, dict | bool):
            return value
        text = super().read(value)
        return json.loads(text) if text.startswith("{") else text

    def write(self, value: dict | bool | str) -> dict | bool | str:
        return value


@dataclass(frozen=True)
class TokenMask:
    """A set of tokens as words of bits, uint32 [W]. A program makes it, not a person."""

    expected: str

    def read(self, value: Any) -> np.ndarray:
        raise ValueError

    def write(self, value: np.ndarray) -> list[int]:
        return value.tolist()

    def stack(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(values)


def parameter(kind: Parameter, default: Any = dataclasses.MISSING, static: bool = False) -> Any:
    """A field of a link or a strategy. A `static` one is a part of the compiled program: a size, never an amount."""
    return dataclasses.field(default=default, metadata={"parameter": kind, "static": static})


def parameters(kind: type) -> dict[str, Parameter]:
    """The parameters of a class of links or strategies, by name, in the order of their fields."""
    return {field.name: field.metadata["parameter"] for field in dataclasses.fields(kind)}


def parameterized(cls: type) -> type:
    """Makes a class a frozen dataclass and a pytree whose leaves are its parameters, but for the static ones."""
    cls = dataclass(frozen=True)(cls)
    static = [field.name for field in dataclasses.fields(cls) if field.metadata["static"]]
    data = [field.name for field in dataclasses.fields(cls) if field.name not in static]

    def flatten(part):
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(part, name)) for name in data]
        return leaves, tuple(getattr(part, name) for name in static)

    def unflatten(values, leaves):
        return cls(**dict(zip((*data, *static), (*leaves, *values), strict=True)))

    # register_dataclass will not do: by jax 0.10.2 the trees of two of its classes are equal where their fields' values
    # are, and now and then a call with one class ran the compiled program of the other.
    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def static_values(part: Any) -> tuple:
    """The class of a link or a strategy and its static parameters: what a compiled program is for."""
    fields = dataclasses.fields(part)
    return type(part), *(getattr(part, field.name) for field in fields if field.metadata["static"])


def stack_rows(parts: Sequence[Any]) -> Any:
    """The same link, or strategy, of many rows as one whose parameters are arrays with an axis B in front."""
    first = parts[0]
    data = [field for field in dataclasses.fields(first) if not field.metadata["static"]]
    stacked = {f.name: f.metadata["parameter"].stack([getattr(part, f.name) for part in parts]) for f in data}
    return dataclasses.replace(first, **stacked)


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
