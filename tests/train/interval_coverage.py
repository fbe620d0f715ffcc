"""How often 95% intervals of measures hold what they should, in a simulation: by hand for the figures in docstrings of
train/quality/, and small in test_intervals.py and test_human.py.

    PYTHONPATH=. python tests/train/interval_coverage.py 300 FOLDER

FOLDER has texts (*.txt); passages of 128 words and marks are drawn from all of them. Without it texts are made up:
tokens of a Zipf distribution, some copied from shortly before.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from train.quality import human
from train.quality.diversity import MEASURES, Estimate, estimates, measure
from train.quality.intervals import interval, standard_error


def made_up(count: int, length: int, random: np.random.Generator) -> np.ndarray:
    """Texts of Zipf-like tokens out of 2,000, one in ten a copy of one of the 16 before it: int [count, length]."""
    weights = 1 / (np.arange(2000) + 2.7)
    texts = random.choice(2000, (count, length), p=weights / weights.sum())
    for t in range(16, length):
        copied = np.flatnonzero(random.random(count) < 0.1)
        texts[copied, t] = texts[copied, t - random.integers(1, 17, len(copied))]
    return texts


def passages(folder: str, length: int) -> np.ndarray:
    ids, rows = {}, []
    for path in sorted(Path(folder).glob("*.txt")):
        words = re.findall(r"\w+|[^\w\s]", path.read_text(encoding="utf-8"))
        tokens = np.array([ids.setdefault(word, len(ids)) for word in words])
        rows.append(tokens[: len(tokens) // length * length].reshape(-1, length))
    return np.concatenate(rows)


def with_loops(texts: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """The texts, that share of which, from somewhere on, repeats its last 2 to 9 tokens to the end."""
    texts = texts.copy()
    length = texts.shape[1]
    for i in np.flatnonzero(random.random(len(texts)) < share):
        start, phrase = random.integers(9, length), random.integers(2, 10)
        texts[i, start:] = np.resize(texts[i, start - phrase : start], length - start)
    return texts


def coverage(pool: np.ndarray, size: int, repeats: int, random: np.random.Generator) -> dict[str, tuple]:
    """Of samples of `size` texts: of each measure its mean, the standard error over the true deviation, the share of
    intervals that hold the mean."""
    found: dict[str, list[Estimate]] = defaultdict(list)
    for _ in range(repeats):
        for name, estimate in estimates(pool[random.choice(len(pool), size, replace=False)]).items():
            found[name].append(estimate)
    results = {}
    for name, each in found.items():
        values, errors = np.array([e.value for e in each]), np.array([standard_error(e) for e in each])
        intervals = np.array([interval(e) for e in each])
        mean = values.mean()
        held = (intervals[:, 0] <= mean) & (mean <= intervals[:, 1])
        results[name] = mean, errors.mean() / max(values.std(), 1e-12), held.mean()
    return results


def prediction_coverage(
    pool: np.ndarray, size: int, samples: int, repeats: int, random: np.random.Generator
) -> dict[str, float]:
    """How often a new sample of `size` texts falls inside the interval of `samples` others: of each measure; of all at
    95% each, `each`; of all at once, `together`."""
    inside = defaultdict(list)
    for _ in range(repeats):
        drawn = random.choice(len(pool), size * (samples + 1), replace=False)
        found, values = human.human_measures(pool[drawn[size:]], size), measure(pool[drawn[:size]])
        for name, value in values.items():
            low, high = human.prediction_interval(found[name])
            inside[name].append(low <= value <= high)
        wide = human.joint_intervals(found)
        inside["each"].append(all(inside[name][-1] for name in MEASURES))
        inside["together"].append(all(low <= values[name] <= high for name, (low, high) in wide.items()))
    return {name: float(np.mean(each)) for name, each in inside.items()}


def main(repeats: int, folder: str | None) -> None:
    random = np.random.default_rng(0)
    texts = passages(folder, 128) if folder else made_up(30_000, 128, random)
    for loops in (0.0, 0.02, 0.1, 0.6):
        pool = with_loops(texts, loops, random)
        for size in (50, 100, 200):
            for name, (mean, error, held) in coverage(pool, size, repeats, random).items():
                figures = f"mean {mean:.4f}, error / deviation {error:.2f}, held {held:.3f}"
                print(f"loops {loops} texts {size} {name}: {figures}", flush=True)
    for size, samples in ((50, 1), (100, 1), (100, 5), (200, 4)):
        found = prediction_coverage(texts, size, samples, repeats, random)
        print(
            f"another {size} by {samples} of {size}:",
            {name: round(share, 3) for name, share in found.items()},
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
