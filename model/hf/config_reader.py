"""Reads the keys of a config.json, each checked, and knows which of them were read. The families of model/hf use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

REFUSED = object()
# What says nothing of what a model computes, in any family's config. Old files hold the settings of generation too, and
# those of other tasks; programs that made or use a file leave their marks.
INERT = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "_num_labels", "architectures",
    "bos_token_id", "cache_implementation", "chunk_size_feed_forward", "do_sample", "dtype", "eos_token_id",
    "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder", "label2id",
    "max_length", "model_type", "name_or_path", "num_labels", "output_attentions", "output_hidden_states",
    "output_past", "pad_token_id", "problem_type", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "task_specific_params", "temperature", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
})  # fmt: skip


class HuggingFaceError(ValueError):
    """A Hugging Face checkpoint can't become ours, or ours theirs. The message is one line."""


class ConfigReader:
    """The keys of a config.json, or of an object in it; `where` names it in errors.

    A key that is absent has its value in `defaults`. Each method reads one key; it raises HuggingFaceError where there
    is neither, or the value is of another type. `null` is what a null stands for; by default it is refused too.
    """

    def __init__(self, given: dict, defaults: Mapping[str, Any] | None = None, where: str = "config.json"):
        if not isinstance(given, dict):
            raise HuggingFaceError(f"{where}: must be an object, not {given!r}")
        self.given, self.values, self.where = given, {**(defaults or {}), **given}, where
        self.read: set[str] = set()

    def refuse(self, reason: str) -> NoReturn:
        raise HuggingFaceError(f"{self.where}: {reason}")

    def typed(self, key: str, kinds: tuple[type, ...], expected: str, null: Any) -> Any:
        self.read.add(key)
        if key not in self.values:
            self.refuse(f"no {key!r} in it, which this family of models needs")
        value = self.values[key]
        if value is None and null is not REFUSED:
            return null
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.refuse(f"{key} must be {expected}, not {value!r}")
        return value

    def integer(self, key: str, null: Any = REFUSED, least: int = 1) -> int:
        value = self.typed(key, (int,), "a whole number", null)
        if value is not null and value < least:
            self.refuse(f"{key} must be at least {least}, not {value}")
        return value

    def number(self, key: str, null: Any = REFUSED) -> float:
        value = self.typed(key, (int, float), "a number", null)
        return value if value is null else float(value)

    def flag(self, key: str, null: Any = REFUSED) -> bool:
        return self.typed(key, (bool,), "true or false", null)

    def text(self, key: str) -> str:
        return self.typed(key, (str,), "text", REFUSED)

    def list(self, key: str, null: Any = REFUSED) -> list:
        return self.typed(key, (list,), "a list", null)

    def choice(self, key: str, choices: Mapping[str, Any]) -> Any:
        """What the key's text stands for in `choices`."""
        value = self.text(key)
        if value not in choices:
            self.refuse(f"{key}={value!r} is not built here; {', '.join(sorted(choices))} are")
        return choices[value]

    def object(self, key: str, defaults: Mapping[str, Any] | None = None) -> ConfigReader:
        """The object under a key, as a reader of its own: empty if it is null or absent. Its keys are to be checked
        with `refuse_unread` too."""
        self.read.add(key)
        return ConfigReader(self.values.get(key) or {}, defaults, f"{self.where}: {key}")

    def expect(self, key: str, only: Any) -> None:
        """Reads a key of which one value alone is built here; absent or null, it has that value."""
        self.read.add(key)
        value = self.values.get(key)
        if value is not None and value != only:
            self.refuse(f"{key}={value!r} is not built here, only {only!r} is")

    def refuse_unread(self, inert: Iterable[str] = ()) -> None:
        """Raises HuggingFaceError naming the keys that no one read, that are not null and that are not `inert`."""
        given = {key for key, value in self.given.items() if value is not None}
        unread = sorted(given - self.read - INERT - set(inert))
        if unread:
            listed = ", ".join(f"{key}={self.given[key]!r}" for key in unread[:6])
            self.refuse(
                f"unknown to Skald: {listed}{' …' if unread[6:] else ''}; what they change is not built here, so the "
                "model would not be theirs"
            )
