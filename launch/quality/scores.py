"""Scores the texts of all settings: each measure with its interval, from the texts alone or from a model's passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from launch.inference.checkpoint import LoadedCheckpoint
from launch.quality.grid import HUMAN, Setting
from launch.quality.model_passes import (
    PassCosts,
    WrittenText,
    judge_requests,
    last_hidden_states,
    nats_of,
    own_requests,
    read_tokens,
    shuffled_requests,
    text_bytes,
)
from launch.quality.plan import Plan
from launch.quality.texts_file import Text, TextsFile
from train.quality import diversity
from train.quality.estimate import Estimate, ratio
from train.quality.gate import SHORT
from train.quality.intervals import interval
from train.quality.mauve import mauve

Texts = dict[str, list[WrittenText]]  # of each setting, human first
Metrics = dict[str, dict[str, dict]]  # by setting, by measure: `value` and `interval`
SHARE = 0.9  # of a setting's texts have SHORT of the tokens that are asked for: else it has no measure of diversity


def read_texts(plan: Plan, file: TextsFile) -> Texts:
    """The texts of a plan, all of which are in the file."""
    settings = (Setting(HUMAN, HUMAN), *plan.settings)
    return {
        setting.chain: [
            WrittenText(plan.places[wanted.index], wanted.index, file.texts[wanted.digest])
            for wanted in plan.wanted(setting)
        ]
        for setting in settings
    }


def figure(estimate: Estimate) -> dict:
    """A measure as quality.json has it; None for what is not defined."""
    return {"value": estimate.value if math.isfinite(estimate.value) else None, "interval": interval(estimate)}


def per_token(nats_N: np.ndarray, tokens_N: np.ndarray) -> Estimate:
    """The sum of one number of each text over the sum of another, of any size."""
    return ratio(nats_N, tokens_N, math.inf)


def perplexity(nats: dict) -> dict:
    """The figure of nats a token as one of perplexity; its interval is that of the nats."""
    value, bounds = nats["value"], nats["interval"]
    return {
        "value": None if value is None else math.exp(value),
        "interval": bounds and [math.exp(bound) for bound in bounds],
    }


def short_settings(texts: Texts, new_tokens: int) -> list[str]:
    """The settings whose texts are too short to be compared: of less than SHARE of them has SHORT of `new_tokens`."""
    least = SHORT * new_tokens
    return [name for name, own in texts.items() if np.mean([len(text.text.tokens) >= least for text in own]) < SHARE]


def matched_texts(texts: Texts, new_tokens: int) -> diversity.LengthMatched:
    """The texts of all settings that are long enough, cut to equal numbers and lengths."""
    long_enough = texts.keys() - short_settings(texts, new_tokens)
    return diversity.length_matched({name: token_arrays(own) for name, own in texts.items() if name in long_enough})


def token_arrays(texts: Sequence[WrittenText]) -> list[np.ndarray]:
    return [np.array(text.text.tokens, np.int64) for text in texts]


def diversity_metrics(matched: diversity.LengthMatched) -> Metrics:
    return {
        name: {measure: figure(found) for measure, found in diversity.estimates(own).items()}
        for name, own in matched.texts.items()
    }


def likelihood_metrics(run: LoadedCheckpoint, plan: Plan, texts: Texts, shuffles: int, costs: PassCosts) -> Metrics:
    """Perplexity and fit to the prompt under the model itself."""
    every = [text for own in texts.values() for text in own]
    tokens = np.array([len(text.text.tokens) for text in every], float)
    requests = own_requests(every)
    with costs.measured("likelihood", read_tokens(requests)):
        nats = nats_of(run, requests)
    requests = shuffled_requests(every, plan.places, shuffles, plan.seed)
    with costs.measured("shuffled prompts", read_tokens(requests)):
        shuffled = nats_of(run, requests).reshape(len(every), -1).mean(1)
    found: Metrics = {}
    for name, part in parts(texts):
        found[name] = {
            "perplexity": perplexity(figure(per_token(nats[part], tokens[part]))),
            "prompt_ratio": figure(per_token((shuffled - nats)[part], tokens[part])),
        }
    return found


def judge_metrics(judge: LoadedCheckpoint, run: LoadedCheckpoint, texts: Texts, costs: PassCosts) -> Metrics:
    """Bits a byte under a second model."""
    every = [text for own in texts.values() for text in own]
    requests = judge_requests(judge, run, every)
    with costs.measured("judge", read_tokens(requests)):
        nats = nats_of(judge, requests)
    size = text_bytes(every)
    return {name: {"judge_bits_per_byte": figure(per_token(nats[part], size[part]))} for name, part in parts(texts)}


def mauve_metrics(run: LoadedCheckpoint, plan: Plan, texts: Texts, costs: PassCosts) -> Metrics:
    """MAUVE of each setting's texts and the human ones behind the same prompts. That of human text is with human text
    of other places, and so the most that a setting can be expected to reach; None where there are no other places."""
    others = [WrittenText(p, i, Text(p.human, "", "length", 0.0)) for i, p in enumerate(plan.others)]
    every = [text for own in texts.values() for text in own] + others
    with costs.measured("features", sum(len(text.place.prompt) + len(text.text.tokens) for text in every)):
        features = last_hidden_states(run, every).astype(np.float64)
    by_setting = {name: features[part] for name, part in parts(texts)}
    human = by_setting[HUMAN]
    by_setting[HUMAN] = features[len(every) - len(others) :]
    found: Metrics = {}
    for name, own in by_setting.items():
        score = mauve(human, own) if len(own) else None
        found[name] = {"mauve": {"value": score and score.score, "interval": score and score.interval}}
    return found


def parts(texts: Texts) -> list[tuple[str, slice]]:
    """Where the texts of each setting stand among all."""
    ends = np.cumsum([len(own) for own in texts.values()]).tolist()
    return [(name, slice(end - len(own), end)) for (name, own), end in zip(texts.items(), ends, strict=True)]


def merge(names: Iterable[str], *found: Metrics) -> Metrics:
    """The measures of all, by setting, in the order of these names."""
    return {name: {measure: value for each in found for measure, value in each.get(name, {}).items()} for name in names}
