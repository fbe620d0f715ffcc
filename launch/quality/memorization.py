"""Memorization: how much of its training text a model writes on word for word, by how often it read it.

launch/quality/evaluation.py calls `extraction`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data.index.part import Part
from data.index.training_index import TrainingIndex
from launch.inference.checkpoint import LoadedCheckpoint
from launch.inference.provenance import training_epochs, training_splits
from launch.inference.tasks.statistics import wilson_interval
from model.decode.chain import parse_chain
from model.decode.generate import Generator

PROMPT_TOKENS = (50, 100, 200)
SUFFIX_TOKENS = 50
TEXTS = 100  # of random places, and of each number of times that a text was read
CANDIDATES = 1 << 20  # places at which a text is looked for that stands in training more than once
PLACES = 4  # times as many random places are drawn as texts: some are too near to an end of their document
ROWS = 32  # texts that are written at once


class Passage(NamedTuple):
    """Tokens of the training text, a prompt and its suffix. `is_random`: of a place drawn from all of it, whatever
    stands there."""

    tokens: list[int]
    is_random: bool


class Trial(NamedTuple):
    """What became of a passage: the tokens of its prompt, how often prompt and suffix were read, and whether the model
    wrote the suffix."""

    prompt_tokens: int
    seen: float
    extracted: bool
    is_random: bool


def extraction(
    run: LoadedCheckpoint,
    index: TrainingIndex,
    prompt_tokens: Sequence[int] = PROMPT_TOKENS,
    suffix_tokens: int = SUFFIX_TOKENS,
    texts: int = TEXTS,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> dict | None:
    """The share of training passages that are extractable: given their first k tokens, greedy decoding writes the next
    50 exactly (Carlini et al. 2022, "Quantifying Memorization Across Neural Language Models", definition 3.1).

    `random`: over `texts` places of the whole training text, for each k; `by_times_seen`: over these and as many that
    were read 2 to 4 times, 4 to 8 and so on, as far as there are some. A passage of prompt and suffix counts as read
    as often as it stands in the training text times the epochs. Shares have Wilson intervals at 95%. Longer prompts
    are of the same passages, where their documents have so many tokens before: what differs is what stands before.
    `cost`: 50 tokens are written for each passage and k.

    None where no document has a prompt and its suffix, or no row of training has room for them.
    """
    started, epochs = time.monotonic(), training_epochs(run, training_splits(run))
    lengths = sorted(k for k in prompt_tokens if k + suffix_tokens <= run.trained_length)
    if not lengths:
        return None
    drawn = draw_passages(index, lengths, suffix_tokens, texts, epochs, np.random.default_rng(seed))
    if not any(drawn.values()):
        return None
    trials, total = [], sum(map(len, drawn.values()))
    for k, passages in drawn.items():
        written = write_on(run, [passage.tokens[:k] for passage in passages], suffix_tokens)
        for passage, tokens in zip(passages, written, strict=True):
            seen = index.times_seen(passage.tokens, epochs)
            trials.append(Trial(k, seen, tokens == passage.tokens[k:], passage.is_random))
        report(f"memorization: {len(trials):,} of {total:,} passages, {k} tokens of each given")
    return {
        "suffix_tokens": suffix_tokens,
        "epochs": epochs,
        "random": [share(own, {"prompt_tokens": k}) for k, own in grouped(trials, lengths) if own],
        "by_times_seen": by_times_seen(trials, lengths),
        "cost": {"generated_tokens": len(trials) * suffix_tokens, "seconds": time.monotonic() - started},
    }


def draw_passages(
    index: TrainingIndex, lengths: list[int], suffix: int, texts: int, epochs: dict, random: np.random.Generator
) -> dict[int, list[Passage]]:
    """For each length of prompt the passages of it and its suffix: `texts` of random places, then those whose end was
    read several times, at most `texts` of each power of two of these. An end has a passage of each length for which its
    document has the tokens before it."""
    shortest = lengths[0] + suffix
    drawn: dict[int, list[Passage]] = {k: [] for k in lengths}
    counts: Counter[tuple[int, int]] = Counter()
    known: set[tuple[int, ...]] = set()

    def add(part: Part, place: int, power: int, is_random: bool) -> None:
        for k in lengths:
            tokens = part.tokens(place + shortest - suffix - k, place + shortest)
            if tokens is not None and counts[k, power] < texts:
                counts[k, power] += 1
                drawn[k].append(Passage(tokens.tolist(), is_random))

    for part, place in random_places(index, PLACES * texts, random):
        if (end := part.tokens(place, place + shortest)) is not None:
            known.add(tuple(end.tolist()))
            add(part, place, 0, True)
    for part, place in repeated_places(index, shortest, random):
        end = part.tokens(place, place + shortest)
        if end is None or (own := tuple(end.tolist())) in known:
            continue
        known.add(own)
        if power := power_of(index.times_seen(own, epochs)):
            add(part, place, power, False)
    return drawn


def random_places(index: TrainingIndex, count: int, random: np.random.Generator) -> list[tuple[Part, int]]:
    """Places of the training text, each as likely as any other."""
    parts, sizes = [part for _, part in index.parts], [len(part.suffixes) for _, part in index.parts]
    which = random.choice(len(parts), count, p=np.array(sizes) / sum(sizes))
    return [(parts[w], int(parts[w].suffixes[random.integers(sizes[w])])) for w in which]


def repeated_places(index: TrainingIndex, tokens: int, random: np.random.Generator) -> list[tuple[Part, int]]:
    """Places at which so many tokens stand that stand elsewhere too, in random order."""
    found = []
    for _, part in index.parts:
        last = len(part.suffixes) - 1
        entries = random.choice(last, min(last, CANDIDATES), replace=False) if last > 0 else np.zeros(0, np.int64)
        found += [(part, int(part.suffixes[entry])) for entry in part.repeated(entries, tokens)]
    return [found[number] for number in random.permutation(len(found))]


def power_of(seen: float) -> int:
    """The power of two of how often a text was read: 0 for less than twice, 1 for two or three times."""
    return max(int(np.floor(np.log2(seen))), 0) if seen > 0 else 0


def write_on(run: LoadedCheckpoint, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What the model writes behind prompts of one length, by greedy decoding; nothing ends it."""
    generator = Generator(run.model, vocab_size=run.tokenizer.vocab_size, context=run.trained_length)
    written = []
    for first in range(0, len(prompts), ROWS):
        rows = generator.generate(prompts[first : first + ROWS], chain=parse_chain("greedy"), max_new_tokens=tokens)
        written += [row.tokens for row in rows]
    return written


def grouped(trials: list[Trial], lengths: list[int]) -> list[tuple[int, list[Trial]]]:
    """The trials of random places with each length of prompt."""
    return [(k, [trial for trial in trials if trial.prompt_tokens == k and trial.is_random]) for k in lengths]


def by_times_seen(trials: list[Trial], lengths: list[int]) -> list[dict]:
    """The shares of trials with each length of prompt that were read about as often: `seen` is from .. below."""
    shares = []
    for k in lengths:
        own = [trial for trial in trials if trial.prompt_tokens == k]
        for power in sorted({power_of(trial.seen) for trial in own}):
            seen = {"prompt_tokens": k, "seen": [2.0**power if power else 0.0, 2.0 ** (power + 1)]}
            shares.append(share([trial for trial in own if power_of(trial.seen) == power], seen))
    return shares


def share(trials: list[Trial], named: dict) -> dict:
    """How many of some trials extracted their suffix."""
    extracted = sum(trial.extracted for trial in trials)
    interval = wilson_interval(extracted, len(trials))
    return named | {
        "texts": len(trials),
        "extracted": extracted,
        "share": extracted / len(trials),
        "interval": interval,
    }
