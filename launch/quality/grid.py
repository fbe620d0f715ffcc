"""The grid of samplers to measure: a TOML file that lists settings by kind. prompts, prompt_tokens, new_tokens are the
defaults of `--prompts`, `--prompt-tokens` and `--new-tokens`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configs
from launch.inference.json_schema import read_schema_files
from model.decode.chain import SamplerError, format_chain, parse_chain
from train.fields import ConfigError, did_you_mean

SHIPPED = Path(configs.__path__[0]) / "quality"
SIZES = ("prompts", "prompt_tokens", "new_tokens")
HUMAN = "human"


@dataclass(frozen=True)
class Setting:
    """A sampler chain in its text form, and the kind whose tuning it is a part of."""

    chain: str
    kind: str


@dataclass(frozen=True)
class Grid:
    """Settings by kind, and how many prompts of how many tokens each continues for how many more."""

    name: str
    settings: tuple[Setting, ...]
    prompts: int
    prompt_tokens: int
    new_tokens: int

    @property
    def budgets(self) -> dict[str, int]:
        """How many settings each kind has."""
        kinds = [setting.kind for setting in self.settings]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def read_grid(file: Path) -> Grid:
    """The grid of a file. Raises ConfigError with the file and what is wrong in it."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: no grid can be read ({getattr(error, 'strerror', None) or error})") from None
    if unknown := [name for name in values if name not in (*SIZES, "samplers")]:
        known = (*SIZES, "samplers")
        raise ConfigError(
            f"{file}: a grid has no {unknown[0]!r}; it has {', '.join(known)}{did_you_mean(unknown[0], known)}"
        )
    for name in SIZES:
        value = values.get(name)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{file}: {name} is {'missing' if value is None else value}; write a whole number from 1")
    return Grid(str(file), read_settings(file, values.get("samplers")), *(values[name] for name in SIZES))


def read_settings(file: Path, samplers: Any) -> tuple[Setting, ...]:
    """The settings of the table `samplers`, each once. Raises ConfigError."""
    example = '[samplers] and below it such lines as top_p = ["top_p=0.9", "top_p=0.95"]'
    if not isinstance(samplers, dict) or not samplers:
        raise ConfigError(f"{file}: no samplers; write {example}")
    settings: dict[str, Setting] = {}
    for kind, chains in samplers.items():
        if not isinstance(chains, list) or not chains or not all(isinstance(chain, str) for chain in chains):
            raise ConfigError(f"{file}: {kind} is {chains!r}; it takes a list of chains: {example}")
        for text in chains:
            chain = read_chain(file, text)
            if chain in settings or kind == HUMAN:
                what = f"{text!r} stands twice" if chain in settings else f"{HUMAN!r} is what people wrote"
                raise ConfigError(f"{file}: {kind}: {what}; leave it out")
            settings[chain] = Setting(chain, kind)
    return tuple(settings.values())


def read_chain(file: Path, text: str) -> str:
    """The shorthand of a chain. Raises ConfigError."""
    try:
        return format_chain(parse_chain(read_schema_files(text)))
    except SamplerError as error:
        raise ConfigError(f"{file}: {error}") from None
