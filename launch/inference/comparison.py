"""Compares two systems on the same examples: paired bootstrap intervals and McNemar's test, in float64 NumPy.

An example has statistics, and a metric is a function of their sums: so it is with losses, bits a byte, accuracy and
BLEU. text_comparison.py compares losses with it, paired_results.py the results of tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 0
FEWEST, MOST = 20, 20_000  # parts that are drawn: with fewer there is no interval; more are joined in blocks
DRAWN_AT_ONCE = 1 << 22  # numbers in memory

Metric = Callable[[np.ndarray], np.ndarray]


def ratio(sums_RK: np.ndarray) -> np.ndarray:
    """The first statistic for one of the second: nats a token, right answers an example. [..., 2] -> [...]."""
    return sums_RK[..., 0] / sums_RK[..., 1]


def compare(
    run_NK: np.ndarray,
    other_NK: np.ndarray,
    metric: Metric = ratio,
    block: int | None = None,
    resamples: int = RESAMPLES,
) -> dict:
    """A metric of both systems, from the K statistics of the same N examples: `run`, `other`, `difference` (other minus
    run), and the `interval` of the difference that holds it with probability CONFIDENCE, [low, high].

    The interval is that of the paired bootstrap by percentiles (Efron and Tibshirani 1993, chapter 13; for BLEU, Koehn
    2004): both systems are scored on the same examples, drawn anew `resamples` times with a fixed seed. `block`: so
    many neighbours are drawn together, as where examples follow one another in one text (circular blocks: Politis and
    Romano 1992); None: 1, or what leaves MOST of them. With fewer than FEWEST parts the interval is None.
    """
    run, other = (float(metric(statistics.sum(0, dtype=np.float64))) for statistics in (run_NK, other_NK))
    block = block or -(-len(run_NK) // MOST)
    interval = None
    if len(run_NK) // block >= FEWEST:
        resampled = [metric(b) - metric(a) for a, b in resampled_sums(run_NK, other_NK, block, resamples)]
        tail = 50 * (1 - CONFIDENCE)
        interval = np.percentile(np.concatenate(resampled), [tail, 100 - tail]).tolist()
    return {"run": run, "other": other, "difference": other - run, "interval": interval}


def resampled_sums(
    run_NK: np.ndarray, other_NK: np.ndarray, block: int = 1, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sums of both systems' statistics over drawn examples, [resamples, K] each, a bounded part at a time. The
    examples are drawn with replacement, in blocks of neighbours, as many as there are."""
    run_NK, other_NK = (block_sums(np.asarray(x, np.float64), block) for x in (run_NK, other_NK))
    count, drawn = len(run_NK), max(1, len(run_NK) // block)
    random = np.random.default_rng(seed)
    step = max(1, DRAWN_AT_ONCE // drawn)
    for start in range(0, resamples, step):
        indices = random.integers(0, count, (min(step, resamples - start), drawn))
        yield tuple(np.stack([x[indices].sum(1) for x in each.T], axis=-1) for each in (run_NK, other_NK))


def block_sums(statistics_NK: np.ndarray, block: int) -> np.ndarray:
    """Row i: the sum over the examples i to i + block; behind the last one comes the first."""
    around = np.concatenate([statistics_NK, statistics_NK[: block - 1]])
    cumulative = np.concatenate([np.zeros_like(around[:1]), np.cumsum(around, 0)])
    return cumulative[block:] - cumulative[:-block] if block > 1 else statistics_NK


def block_length(examples: int) -> int:
    """Neighbours in a block where they depend on each other: the cube root of their number, the order that makes the
    error of an estimated variance least (Hall, Horowitz and Jing 1995)."""
    return math.ceil(round(examples ** (1 / 3), 9))


def mcnemar(only_run: int, only_other: int) -> float:
    """The exact p-value of McNemar's test (two-sided binomial): how likely counts as uneven as these are, of the
    examples that only one system has right, where both are equally good."""
    total, fewer = only_run + only_other, min(only_run, only_other)
    ways = itertools.accumulate(range(fewer), lambda n, k: n * (total - k) // (k + 1), initial=1)  # binomials, exact
    return min(1.0, 2 * sum(ways) / 2**total)


def evidence(run_nats: np.ndarray, other_nats: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How much an example speaks for the run: nats that the other needs more, over the square root of its tokens, since
    the noise of a sum grows with it. [N] each."""
    return (other_nats - run_nats) / np.sqrt(np.maximum(tokens, 1))
