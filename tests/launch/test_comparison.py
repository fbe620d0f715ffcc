"""Paired comparisons against enumeration, SciPy's bootstrap, its binomial test, sacrebleu, and simulated coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from launch.inference import comparison
from launch.inference.comparison import (
    RESAMPLES,
    block_length,
    block_sums,
    compare,
    mcnemar,
    resampled_sums,
)


def losses(seed: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of examples under two systems, of which the second needs 0.02 nats a token more: [N, 2] each."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 60, examples)
    hardness = random.gamma(4.0, 0.5, examples)
    noise = random.normal(0.02, 0.1, examples)
    return np.stack([hardness * tokens, tokens], 1), np.stack([(hardness + noise) * tokens, tokens], 1)


def test_the_interval_is_that_of_scipys_paired_bootstrap_on_the_same_draws():
    run, other = losses(1, 150)

    def difference(a, b, tokens, axis=-1):
        return (b.sum(axis) - a.sum(axis)) / tokens.sum(axis)

    truth = stats.bootstrap((run[:, 0], other[:, 0], run[:, 1]), difference, paired=True, n_resamples=RESAMPLES,
                            method="percentile", rng=np.random.default_rng(comparison.SEED))  # fmt: skip
    found = compare(run, other)
    assert found["interval"] == pytest.approx(list(truth.confidence_interval), abs=1e-12)
    assert found["difference"] == pytest.approx(difference(run[:, 0], other[:, 0], run[:, 1]))
    assert found["run"] == pytest.approx(run[:, 0].sum() / run[:, 1].sum())


def test_a_worked_example_has_the_sums_of_its_draws(monkeypatch):
    """Of three examples: every resample is one of the 27 that there are, each about as often; in any parts."""
    run, other = np.array([[1, 1], [2, 1], [6, 2]]), np.array([[2, 1], [2, 1], [3, 2]])
    whole = [np.concatenate(x) for x in zip(*resampled_sums(run, other), strict=True)]
    values, counts = np.unique(np.concatenate(whole, axis=1), axis=0, return_counts=True)
    expected = {}
    for drawn in itertools.product(range(3), repeat=3):
        key = (*run[list(drawn)].sum(0), *other[list(drawn)].sum(0))
        expected[key] = expected.get(key, 0) + 1
    assert {tuple(value) for value in values} == expected.keys()
    assert stats.chisquare(counts, [expected[tuple(v)] / 27 * RESAMPLES for v in values]).pvalue > 1e-3
    monkeypatch.setattr(comparison, "DRAWN_AT_ONCE", 1000)
    in_parts = [np.concatenate(x) for x in zip(*resampled_sums(run, other), strict=True)]
    assert np.array_equal(whole, in_parts)
    assert compare(run, other) == {"run": 9 / 4, "other": 7 / 4, "difference": -1 / 2, "interval": None}


def test_a_system_differs_from_itself_by_exactly_nothing():
    run, _ = losses(2, 100)
    assert compare(run, run) | {"run": 0, "other": 0} == {"run": 0, "other": 0, "difference": 0, "interval": [0, 0]}


def covered(run_TNK: np.ndarray, other_TNK: np.ndarray, truth: float, block: int | None = None) -> float:
    """The share of trials whose interval holds the true difference."""
    pairs = zip(run_TNK, other_TNK, strict=True)
    found = [compare(a, b, block=block, resamples=400)["interval"] for a, b in pairs]
    return np.mean([low <= truth <= high for low, high in found])


def test_intervals_hold_the_true_difference_as_often_as_they_say():
    """In 400 trials each: of losses with tokens, and of accuracies. 95%, less what a percentile interval of so few
    examples and draws lacks, within 3 standard deviations."""
    pairs = [losses(seed, 100) for seed in range(400)]
    run, other = (np.stack([pair[i] for pair in pairs]) for i in range(2))
    assert 0.90 < covered(run, other, 0.02) < 0.985
    random = np.random.default_rng(5)
    shared = random.random((400, 150))
    right = [(np.where(random.random((400, 150)) < 0.7, shared, random.random((400, 150))) < p) for p in (0.6, 0.55)]
    ones = np.ones((400, 150))
    assert 0.90 < covered(*(np.stack([each, ones], 2) for each in right), 0.55 - 0.6) < 0.985


def test_blocks_are_needed_where_neighbours_are_alike():
    """Of an autoregressive series (0.7): single windows make an interval far too narrow, blocks a fair one."""
    random = np.random.default_rng(7)
    series = np.zeros((300, 700))
    for t in range(1, 700):
        series[:, t] = 0.7 * series[:, t - 1] + random.normal(size=300)
    ones = np.ones((300, 500))
    run, other = np.stack([0 * ones, ones], 2), np.stack([series[:, 200:], ones], 2)
    assert block_length(500) == 8 and block_length(27) == 3
    assert covered(run, other, 0.0, 1) < 0.7
    assert 0.84 < covered(run, other, 0.0, 16) < 0.97


def test_blocks_go_round_and_their_sums_count_every_example_alike():
    x = np.arange(5.0)[:, None] ** 2
    expected = [sum(x[(i + j) % 5, 0] for j in range(3)) for i in range(5)]
    assert block_sums(x, 3)[:, 0].tolist() == expected and block_sums(x, 1) is x
    assert block_sums(x, 5)[:, 0].tolist() == [30.0] * 5


def test_more_examples_than_can_be_drawn_are_joined(monkeypatch):
    run, other = losses(3, 400)
    single = compare(run, other)["interval"]
    monkeypatch.setattr(comparison, "MOST", 100)
    joined = compare(run, other)["interval"]
    assert joined != single and joined == pytest.approx(single, abs=0.006)
    assert next(resampled_sums(run, other, 4))[0][:, 1].mean() == pytest.approx(run[:, 1].sum(), rel=0.01)


@pytest.mark.parametrize("only_run, only_other", [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 71), (900, 1100)])
def test_mcnemars_p_is_the_exact_binomial_one(only_run, only_other):
    total = only_run + only_other
    truth = stats.binomtest(only_run, total).pvalue if total else 1.0
    assert mcnemar(only_run, only_other) == pytest.approx(truth, rel=1e-9)
