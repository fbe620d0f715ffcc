"""What is to be written: settings times prompts, each text with a digest of all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launch import VERSION
from launch.inference.checkpoint import DescribedCheckpoint
from launch.quality.grid import HUMAN, Setting
from launch.quality.prompts import Place
from model.decode.chain import parse_chain


@dataclass(frozen=True)
class Wanted:
    """A text to be written: the prompt with this `index`, continued in a `setting`."""

    setting: Setting
    index: int
    seed: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """Settings, the `default` sampler's chain among them, places, and how many new tokens each text has at most.
    `seed`: of places and texts. `others`: as many other places with human text, to compare human text with itself; none
    where there is no room for them. `helpers`: as `helper_digests` has them.

    Of prompt i all settings' texts are drawn with the seed `seed` + i: by the same random numbers, so that they differ
    by the setting alone, and those of one setting by other ones.
    """

    settings: tuple[Setting, ...]
    default: str
    places: Sequence[Place]
    others: Sequence[Place]
    prompt_tokens: int
    new_tokens: int
    seed: int
    source: str  # of the prompts, for a person
    conditions: dict  # what all texts depend on
    helpers: dict[str, dict[str, str]]

    @property
    def texts(self) -> int:
        """How many texts the model writes."""
        return len(self.settings) * len(self.places)

    def wanted(self, setting: Setting) -> Iterator[Wanted]:
        """The texts of a setting, in the order of the prompts."""
        for index, place in enumerate(self.places):
            seed = self.seed + index
            values = {"prompt": place.prompt, "new_tokens": self.new_tokens, "setting": setting.chain}
            values |= {"human": place.human} if setting.chain == HUMAN else {"seed": seed, **self.conditions}
            values |= self.helpers.get(setting.chain, {})
            yield Wanted(setting, index, seed, digest(values))


def text_conditions(run: DescribedCheckpoint) -> dict:
    """What the texts of a checkpoint depend on, beside prompt, chain and seed."""
    execution = {"cache": run.execution.cache, "quantize": run.execution.quantize}
    return {"version": VERSION, "checkpoint": run.digest, "weights": run.weights} | execution


def helper_digests(settings: Sequence[Setting]) -> dict[str, dict[str, str]]:
    """Of each setting that other runs help to write, as `contrast` has one, which checkpoints those are: by the run's
    name, as a setting with the newest checkpoint of a run means another one once that has trained on. Raises
    CheckpointError, SamplerError."""
    runs = {setting.chain: [run for run in parse_chain(setting.chain).source.runs if run] for setting in settings}
    return {
        chain: {f"run {name}": DescribedCheckpoint(name).digest for name in own} for chain, own in runs.items() if own
    }


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def with_default(settings: Sequence[Setting], default: str) -> tuple[Setting, ...]:
    """Settings with the checkpoint's default sampler among them."""
    chains = [setting.chain for setting in settings]
    return tuple(settings) if default in chains else (*settings, Setting(default, "default"))
