"""Intervals of measures: the jackknife by hand, its coverage in a small simulation, and why not the bootstrap."""

import math

import numpy as np
import pytest
from interval_coverage import coverage, made_up

from train.quality.diversity import MEASURES, measure, measure_with_intervals
from train.quality.estimate import Estimate, ratio
from train.quality.intervals import effective_draws, interval, standard_error
from train.quality.proportion import wilson_interval

T99 = 1.9842169515  # Student's t, 97.5%, 99 degrees of freedom: a table of it


def test_the_standard_error_of_a_mean_is_the_one_everyone_knows():
    """Of 1, 2, 3, 6: mean 3, deviations -2, -1, 0, 3, variance 14 / 3, standard error sqrt(14 / 3 / 4) = 1.0801."""
    found = ratio(np.array([1, 2, 3, 6]), np.ones(4), limit=math.inf)
    assert found.value == 3 and standard_error(found) == pytest.approx(1.0801, abs=5e-5)


def test_an_unbounded_measure_has_students_interval():
    values = np.random.default_rng(0).normal(5, 2, 100)
    low, high = interval(ratio(values, np.ones(100), limit=math.inf))
    half = T99 * values.std(ddof=1) / 10
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half])


def test_a_share_of_texts_has_wilsons_interval():
    """30 of 100; the jackknife counts 99 degrees of freedom, and so do the draws."""
    found = interval(ratio(np.repeat([1, 0], [30, 70]), np.ones(100)))
    assert found == pytest.approx(wilson_interval(0.3 * 99, 99, T99), abs=1e-9)


def test_where_no_text_repeats_anything_the_interval_has_a_width_still():
    """0 of 100: Wilson's interval ends at t^2 / (100 + t^2) = .0379."""
    assert interval(ratio(np.zeros(100), np.ones(100))) == pytest.approx([0, 0.0379], abs=5e-5)
    low, high = interval(Estimate(1.0, np.ones(100)))
    assert high == 1 and low == pytest.approx(1 - 0.0379, abs=5e-5)


def test_one_text_that_repeats_a_little_is_no_reason_for_a_wide_interval():
    """One of 100 texts repeats 1% of itself: about as one event of a Poisson process, from .2 to 5.7 times that."""
    low, high = interval(ratio(np.eye(100)[0] * 0.01, np.ones(100)))
    assert 0.1e-4 < low < 0.3e-4 and 5e-4 < high < 6e-4


def test_draws_are_of_a_proportion_with_that_error():
    assert effective_draws(0.2, math.sqrt(0.2 * 0.8 / 400), texts=50) == pytest.approx(400)
    assert effective_draws(0.2, 0.0, texts=50) == effective_draws(0.0, 0.1, texts=50) == 50


def test_few_texts_and_undefined_measures_have_no_interval():
    assert interval(ratio(np.arange(19), np.ones(19))) is None
    assert interval(ratio(np.arange(20) / 20, np.ones(20))) is not None
    assert interval(ratio(np.zeros(30), np.zeros(30))) is None
    only_one = np.eye(30)[0]
    assert interval(ratio(5 * only_one, only_one, limit=math.inf)) is None, "without that one it is not defined"


def test_bounded_measures_stay_in_their_bounds_and_all_intervals_hold_their_value():
    texts = made_up(40, 30, np.random.default_rng(1))
    for name, (value, (low, high)) in measure_with_intervals(texts).items():
        assert low <= value <= high, name
        if MEASURES[name].unit == "share":
            assert 0 <= low < high <= 1, name


def test_drawing_texts_twice_would_give_another_measure():
    """The bootstrap of distinct-2 and self-BLEU does not come near their values: no draw of 60 has one."""
    random = np.random.default_rng(2)
    texts = made_up(60, 30, random)
    value = measure(texts)
    drawn = [measure(texts[random.integers(0, 60, 60)]) for _ in range(60)]
    assert max(each["distinct_2"] for each in drawn) < value["distinct_2"]
    assert min(each["self_bleu"] for each in drawn) > value["self_bleu"]


def test_intervals_hold_the_mean_as_often_as_they_say():
    """160 samples of 40 texts; of a true 95% some 152 +- 2.8, and Efron and Stein's error may be greater."""
    random = np.random.default_rng(3)
    found = coverage(made_up(8000, 30, random), 40, 160, random)
    for name in ("distinct_1", "distinct_2", "entropy", "zipf", "rep_16", "self_bleu"):
        _, error, held = found[name]
        assert held > 0.89 and 0.85 < error < 1.6, name
