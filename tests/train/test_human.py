"""What another sample of human text measures."""

import math

import numpy as np
import pytest
from interval_coverage import made_up, prediction_coverage, with_loops

from train.quality.diversity import MEASURES, estimates, measure
from train.quality.human import (
    Human,
    human_measures,
    joint_intervals,
    not_told_apart,
    prediction_interval,
)
from train.quality.intervals import standard_error

RANDOM = np.random.default_rng(0)
TEXTS = made_up(200, 40, RANDOM)


def test_the_value_is_the_mean_over_samples_of_that_size_and_not_that_of_all_texts():
    """distinct-2 of 200 texts is far below that of 50."""
    found = human_measures(TEXTS, 50)["distinct_2"]
    assert (found.samples, found.sample_size) == (4, 50)
    assert found.value - measure(TEXTS)["distinct_2"] > 5 * found.error
    alone = estimates(TEXTS[:50])["distinct_2"]
    assert found.value == pytest.approx(alone.value, abs=4 * found.error)
    assert found.error == pytest.approx(standard_error(alone), rel=0.3)


def test_an_unbounded_measure_strays_by_its_error_and_that_of_the_mean():
    """1 +- t .1 sqrt(1 + 1/4), t of 399 degrees of freedom 1.9659: .7802 to 1.2198."""
    assert prediction_interval(Human(1.0, 0.1, math.inf, 4, 100)) == pytest.approx([0.7802, 1.2198], abs=1e-4)


def test_a_bounded_one_is_not_told_apart_by_the_two_sample_score_test():
    """At both ends |y - share| is t standard errors of two proportions with the pooled one."""
    share, draws, samples, t = 0.1, 80.0, 3, 2.0
    for y in not_told_apart(share, draws, samples, t):
        pooled = (samples * share + y) / (samples + 1)
        error = math.sqrt(pooled * (1 - pooled) * (1 / draws + 1 / (samples * draws)))
        assert abs(y - share) == pytest.approx(t * error)


def test_where_no_human_text_loops_a_new_sample_may_have_some():
    """0 of 100 and y of 100: y^2 = t^2 y/2 (1 - y/2) 2/100, so y = (t^2/100) / (1 + t^2/200) = .0377 at t = 1.96."""
    low, high = not_told_apart(0.0, 100, 1, 1.96)
    assert low == 0 and high == pytest.approx(1.96**2 / 100 / (1 + 1.96**2 / 200), abs=1e-9)


def test_rare_loops_do_not_forbid_a_sample_without_any():
    """One text in 500 loops: another 100 mostly have none."""
    texts = made_up(500, 30, np.random.default_rng(1))
    texts[7, -9:] = [1, 2, 3] * 3
    low, high = prediction_interval(human_measures(texts, 100)["loop_rate"])
    assert low == 0 and 0.01 < high < 0.06


def test_intervals_together_are_wider_than_each_alone():
    found = human_measures(TEXTS, 50)
    together = joint_intervals(found)
    assert list(together) == list(MEASURES)
    for name, (low, high) in together.items():
        alone = prediction_interval(found[name])
        assert low <= alone[0] <= alone[1] <= high and high - low > alone[1] - alone[0], name


def test_another_sample_falls_inside_as_often_as_the_intervals_say():
    """120 samples, each by 2 others of 40. All 13 at once hold far less often than each, so they are taken wider."""
    random = np.random.default_rng(4)
    found = prediction_coverage(made_up(8000, 30, random), 40, 2, 120, random)
    for name in MEASURES:
        assert found[name] > (0.8 if name == "distinct_3" else 0.89), name  # a few repeated 3-grams in all
    assert found["each"] < found["together"] and found["together"] > 0.85


def test_texts_that_loop_fall_outside():
    looping = with_loops(made_up(50, 40, RANDOM), 0.5, RANDOM)
    intervals = joint_intervals(human_measures(TEXTS, 50))
    for name in ("seq_rep_4", "distinct_3", "rep_16", "loop_rate"):
        low, high = intervals[name]
        assert not low <= measure(looping)[name] <= high, name


def test_too_few_human_texts_are_refused():
    with pytest.raises(ValueError, match="samples of 300 from 200 human texts"):
        human_measures(TEXTS, 300)
    with pytest.raises(ValueError, match="samples of 10 from 200 human texts; at least 20"):
        human_measures(TEXTS, 10)
