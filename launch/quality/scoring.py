"""Scores texts that are written, and puts quality.json together. evaluation.py calls it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.index.training_index import TrainingIndex
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.provenance import open_training_index, untraced
from launch.quality import results
from launch.quality.grid import HUMAN
from launch.quality.memorization import extraction
from launch.quality.model_passes import PassCosts, check_judge
from launch.quality.novelty import new_ngrams, novelty, novelty_lines
from launch.quality.plan import Plan
from launch.quality.risk.crows_pairs import crows_pairs, encode_pairs
from launch.quality.risk.toxicity import WORDS, audit, read_words, toxicity
from launch.quality.scores import (
    Metrics,
    Texts,
    diversity_metrics,
    figure,
    judge_metrics,
    likelihood_metrics,
    matched_texts,
    mauve_metrics,
    merge,
    short_settings,
)
from model.decode.chain import parse_chain
from model.decode.links.truncation import Temperature
from model.decode.prompts import PromptError
from model.decode.strategies import Sample
from train.fields import ConfigError
from train.quality.diversity import LengthMatched


@dataclass(frozen=True)
class ScoringOptions:
    """`judge`: the second model, a run's name. `shuffles`: other prompts behind which each text is scored. `novelty`:
    whether texts are looked up in the training text. `crows_pairs`: its file. `memorization`: whether that is measured.
    `toxic_words`: a file with a list; None: the one that ships."""

    judge: str | None = None
    shuffles: int = 2
    novelty: bool = True
    crows_pairs: str | None = None
    memorization: bool = False
    toxic_words: str | None = None


class TextScorer:
    """Scores the texts of a plan; what it needs beside them is opened, and checked, before any is written.

    `novelty_lines`: of each text that was looked up (novelty.py). Raises ConfigError, DataError, CheckpointError.
    """

    def __init__(self, run: LoadedCheckpoint, plan: Plan, options: ScoringOptions, report: Callable[[str], None]):
        self.run, self.plan, self.options, self.report = run, plan, options, report
        if not 1 <= options.shuffles < len(plan.places):
            raise ConfigError(
                f"--shuffles {options.shuffles}: of {len(plan.places)} prompts 1 to {len(plan.places) - 1} are others"
            )
        if run.config is None and options.memorization:
            raise ConfigError(f"--memorization: {run.name} was imported, and its training text is not known here")
        self.judge = LoadedCheckpoint(options.judge) if options.judge else None
        if self.judge:
            check_judge(self.judge, run, plan.places)
        self.pairs = encode_pairs(run, options.crows_pairs) if options.crows_pairs else None
        self.words = read_words(options.toxic_words or WORDS)
        self.costs = PassCosts()
        self.index_seconds, self.novelty_lines = 0.0, []

    def result(self, texts: Texts, energy: dict | None = None) -> dict:
        """The content of quality.json. `energy`: of writing the texts."""
        started = time.monotonic()
        by_models, crows = self.with_models(texts), self.crows_pairs()
        index = self.open_index()
        memorization = self.memorization(index)
        matched = matched_texts(texts, self.plan.new_tokens)
        by_texts, novelties = self.with_index(texts, index)
        audited = audit([text.text.text for text in texts[HUMAN]], self.words)
        risk = self.toxicity(texts, audited["words_left"])
        metrics = merge(texts, diversity_metrics(matched), by_models, by_texts, risk, self.crows_metrics(crows))
        entries = results.setting_entries(self.run, self.plan, texts, metrics, novelties)
        compared = self.compare_with_human(matched, metrics, texts)
        axes = results.axes(any("judge_bits_per_byte" in own for own in metrics.values()))
        front = results.frontier(entries, axes)
        by_models_seconds = sum(cost["seconds"] for cost in self.costs.values())
        seconds = time.monotonic() - started - by_models_seconds - self.index_seconds
        return {
            **self.described(),
            "measures": results.measures_table(entries),
            "settings": [entry | {"distance": compared["distances"].get(entry["setting"])} for entry in entries],
            "compared": {"texts": matched.count, "tokens": matched.length},
            "frontier": front,
            "axes": axes,
            "recommended": compared["recommended"],
            "default": self.plan.default,
            "gate": compared["gate"],
            "untraced": untraced(self.run) if by_texts else None,
            "risk": {"crows_pairs": crows, "toxicity": self.described_list() | {"audit": audited}},
            "memorization": memorization,
            "cost": self.cost(texts, seconds) | {"energy": energy},
        }

    def compare_with_human(self, matched: LengthMatched, metrics: Metrics, texts: Texts) -> dict:
        """As results.compare_with_human, with the `gate` of the default sampler; nothing of it, and a line, where texts
        are too few or too short for it."""
        for line in short_lines(texts, self.plan.new_tokens):
            self.report(line)
        found = {"distances": {}, "recommended": None, "gate": None}
        try:
            found |= results.compare_with_human(matched, metrics)
            found["gate"] = results.gate_of(texts, self.plan.default)
        except ValueError as error:
            self.report(f"no distance from human text: {error}")
        return found

    def described(self) -> dict:
        """What was measured. `weights`: average or plain; null: the average where one was kept."""
        prompts = {
            "count": len(self.plan.places),
            "prompt_tokens": self.plan.prompt_tokens,
            "new_tokens": self.plan.new_tokens,
            "source": self.plan.source,
            "seed": self.plan.seed,
        }
        return {
            "step": self.run.step,
            "checkpoint": self.run.digest,
            "weights": self.run.weights,
            "quantize": self.run.execution.quantize,
            "prompts": prompts,
        }

    def described_list(self) -> dict:
        """The list of toxic words: its file, null for the one that ships, and how many words it has."""
        return {"list": self.options.toxic_words, "words": len(self.words)}

    def with_models(self, texts: Texts) -> Metrics:
        """What the model and the judge say of the texts."""
        found = [likelihood_metrics(self.run, self.plan, texts, self.options.shuffles, self.costs)]
        if self.judge:
            found.append(self.with_judge(texts))
        return merge(texts, *found, mauve_metrics(self.run, self.plan, texts, self.costs))

    def with_judge(self, texts: Texts) -> Metrics:
        """What the judge says; nothing, and a line, where it can't read what was written."""
        try:
            return judge_metrics(self.judge, self.run, texts, self.costs)
        except (PromptError, DataError) as error:
            self.report(f"--judge {self.judge.name} is left out: it can't read all that was written: {error}")
            return {}

    def crows_pairs(self) -> dict | None:
        """CrowS-Pairs at every temperature of the grid."""
        if self.pairs is None:
            return None
        found = crows_pairs(self.run, self.pairs, sorted(lone_temperatures(self.plan).values()))
        self.costs["crows_pairs"] = {"tokens": found["tokens"], "seconds": round(found["seconds"], 3)}
        return found

    def crows_metrics(self, crows: dict | None) -> Metrics:
        """The score of CrowS-Pairs of each setting that is a temperature alone."""
        by_temperature = {one["temperature"]: one for one in crows["by_temperature"]} if crows else {}
        found = {name: by_temperature.get(t) for name, t in lone_temperatures(self.plan).items()}
        return {
            name: {"crows_pairs": {"value": one["score"], "interval": one["interval"]}}
            for name, one in found.items()
            if one
        }

    def open_index(self) -> TrainingIndex | None:
        """The index of the training text; None where it is not wanted, or not to be had, as a line then says."""
        if not (self.options.novelty or self.options.memorization):
            return None
        started = time.monotonic()
        try:
            return open_training_index(self.run, self.report)
        except (ConfigError, DataError) as error:
            if self.options.memorization:
                raise
            self.report(f"novelty is left out: {error}")
            return None
        finally:
            self.index_seconds = time.monotonic() - started

    def memorization(self, index: TrainingIndex | None) -> dict | None:
        """How much of the training text can be extracted, word for word."""
        if not self.options.memorization:
            return None
        found = extraction(self.run, index, report=self.report)
        if found is None:
            self.report(
                "memorization is left out: no prompt and its suffix are in one document and fit into a row of training"
            )
            return None
        cost = found["cost"]
        self.costs["memorization"] = {"tokens": cost["generated_tokens"], "seconds": round(cost["seconds"], 3)}
        return found

    def with_index(self, texts: Texts, index: TrainingIndex | None) -> tuple[Metrics, dict]:
        """The measures of novelty, and what is shown of it, by setting."""
        if index is None or not self.options.novelty:
            return {}, {}
        metrics, shown = {}, {}
        for name, own in texts.items():
            copies = index.copies_of([text.text.tokens for text in own])
            shown[name] = novelty(self.run.tokenizer, own, copies)
            self.novelty_lines += novelty_lines(self.run.tokenizer, name, own, copies)
            longest = shown[name]["longest"]
            copied = {"value": longest["tokens"] if longest else 0, "interval": None}
            metrics[name] = {"new_8_grams": figure(new_ngrams(copies, 8)), "longest_copy": copied}
        return metrics, shown

    def toxicity(self, texts: Texts, words_left: Sequence[str]) -> Metrics:
        """The rates of texts with any word of the list, and with one that no human text holds."""
        found: Metrics = {}
        for name, own in texts.items():
            said = [text.text.text for text in own]
            rates = {"toxicity_rate": toxicity(said, self.words), "toxicity_rate_audited": toxicity(said, words_left)}
            found[name] = {key: {"value": one["rate"], "interval": one["interval"]} for key, one in rates.items()}
        return found

    def cost(self, texts: Texts, scoring_seconds: float) -> dict:
        """Seconds of writing, those of scoring without a model, and each pass of a model."""
        written = [text.text for name, own in texts.items() if name != HUMAN for text in own]
        return {
            "generation_seconds": round(sum(text.seconds for text in written), 3),
            "generated_tokens": sum(len(text.tokens) for text in written),
            "scoring_seconds": round(scoring_seconds, 3),
            "index_seconds": round(self.index_seconds, 3),
            "model_passes": dict(self.costs),
        }


def lone_temperatures(plan: Plan) -> dict[str, float]:
    """The temperature of each setting that has no other link; 1 of the one that has none."""
    found = {}
    for setting in plan.settings:
        chain = parse_chain(setting.chain)
        if isinstance(chain.strategy, Sample) and all(isinstance(link, Temperature) for link in chain.links):
            found[setting.chain] = math.prod(link.value for link in chain.links)
    return found


def short_lines(texts: Texts, new_tokens: int) -> list[str]:
    """A line for each setting whose texts are too short to be compared."""
    return [
        f"{name or 'the model as it is'}: its texts end too early to be compared; it has no measures of diversity"
        for name in short_settings(texts, new_tokens)
    ]
