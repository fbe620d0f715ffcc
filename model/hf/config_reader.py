"""Reads the keys of a config.json, each checked, and knows which of them were read. The families of model/hf use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ABSENT = object()
# What says nothing of what a model computes, in any family's config.
INERT = frozenset({
    "_name_or_path", "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label",
    "initializer_range", "is_encoder_decoder", "label2id", "model_type", "name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "return_dict_in_generate",
    "task_specific_params", "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip


class HuggingFaceError(ValueError):
    """A Hugging Face checkpoint can't become ours, or ours theirs. The message is one line."""


class ConfigReader:
    """The keys of a config.json, or of an object in it; `where` names it in errors. A null key counts as absent.

    Each method reads one key and raises HuggingFaceError where it is missing and has no default, or is of another type.
    """

    def __init__(self, values: dict, where: str = "config.json"):
        self.values, self.where = {key: value for key, value in values.items() if value is not None}, where
        self.read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def any(self, key: str, default: Any = ABSENT) -> Any:
        """The value of a key, whatever its type."""
        self.read.add(key)
        value = self.values.get(key, default)
        if value is ABSENT:
            raise HuggingFaceError(f"{self.where}: no {key!r} in it, which this family of models needs")
        return value

    def typed(self, key: str, default, kinds: tuple[type, ...], expected: str):
        value = self.any(key, default)
        if value is not default and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise HuggingFaceError(f"{self.where}: {key} must be {expected}, not {value!r}")
        return value

    def integer(self, key: str, default: Any = ABSENT) -> int:
        return self.typed(key, default, (int,), "a whole number")

    def number(self, key: str, default: Any = ABSENT) -> float:
        value = self.typed(key, default, (int, float), "a number")
        return value if value is None else float(value)

    def flag(self, key: str, default: Any = ABSENT) -> bool:
        return self.typed(key, default, (bool,), "true or false")

    def text(self, key: str, default: Any = ABSENT) -> str:
        return self.typed(key, default, (str,), "text")

    def choice(self, key: str, choices: dict[str, Any], default: Any = ABSENT) -> Any:
        """What the key's text stands for in `choices`."""
        value = self.text(key, default)
        if value not in choices:
            raise HuggingFaceError(f"{self.where}: {key}={value!r} is not built here; {', '.join(sorted(choices))} are")
        return choices[value]

    def object(self, key: str) -> ConfigReader:
        """The object under a key, as a reader of its own; its keys are to be checked with `refuse_unread` too."""
        return ConfigReader(self.typed(key, {}, (dict,), "an object"), f"{self.where}: {key}")

    def expect(self, key: str, only: Any) -> None:
        """Reads a key of which one value alone is built here; absent, it has that value."""
        value = self.any(key, only)
        if value != only:
            raise HuggingFaceError(f"{self.where}: {key}={value!r} is not built here, only {only!r} is")

    def refuse_unread(self, inert: Iterable[str] = ()) -> None:
        """Raises HuggingFaceError naming the keys that no one read and that are not `inert`."""
        unread = sorted(self.values.keys() - self.read - INERT - set(inert))
        if unread:
            listed = ", ".join(f"{key}={self.values[key]!r}" for key in unread[:6])
            raise HuggingFaceError(
                f"{self.where}: unknown to Skald: {listed}{' …' if unread[6:] else ''}; what they change is not built "
                "here, so the model would not be theirs"
            )
