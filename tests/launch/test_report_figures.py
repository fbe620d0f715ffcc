"""Scales, ticks, thinning and places of labels on the page of `skald report`."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.report import numbers
from launch.report.chart import LINE, spread
from launch.report.line_chart import Curve, line_chart
from launch.report.scale import LogScale, Scale, bounds, log_bounds, tick_labels
from launch.report.thinning import thin

VALUES = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)
CURVES = st.lists(st.one_of(VALUES, st.just(math.nan), st.just(math.inf)), min_size=1, max_size=300)


@given(CURVES, st.integers(2, 40))
def test_thinning_keeps_the_extremes_and_counts_all(ys, limit):
    xs = [float(n * n) for n in range(1, len(ys) + 1)]
    bins = thin(xs, ys, limit)
    good = [y for y in ys if math.isfinite(y)]
    assert len(bins) <= max(limit, 1) and sum(b.count for b in bins) == len(ys)
    assert sum(b.bad for b in bins) == len(ys) - len(good)
    assert [b.x for b in bins] == sorted(b.x for b in bins)
    if good:
        assert min(b.low for b in bins if b.bad < b.count) == min(good)
        assert max(b.high for b in bins if b.bad < b.count) == max(good)
    for b in bins:
        assert b.bad == b.count or (b.low <= b.mean + 1e-6 * abs(b.mean) and b.mean <= b.high + 1e-6 * abs(b.mean))
    mean = math.fsum(b.mean * (b.count - b.bad) for b in bins if b.bad < b.count)
    assert mean == pytest.approx(math.fsum(good), rel=1e-6, abs=1e-3)


@given(st.lists(VALUES, min_size=1, max_size=20), st.integers(2, 8), st.booleans())
def test_a_scale_holds_all_values_and_ends_on_ticks(values, count, from_zero):
    low, high = bounds(values, count, from_zero)
    room = 1e-9 * max(abs(low), abs(high))
    assert low - room <= min(values) and max(values) <= high + room and low < high
    assert not from_zero or low <= 0 <= high
    scale = Scale(low, high, 0.0, 1000.0)
    ticks = scale.ticks(count)
    assert 2 <= len(ticks) <= count + 3
    assert ticks[0] == pytest.approx(low, abs=1e-6 * (high - low)) and ticks[-1] == pytest.approx(
        high, abs=1e-6 * (high - low)
    )
    assert len(set(tick_labels(ticks))) == len(ticks)
    for value in values:
        assert scale.invert(scale(value)) == pytest.approx(value, abs=1e-9 * (high - low) + 1e-9 * abs(value))


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20))
def test_a_scale_of_ratios_holds_all_values(values):
    low, high = log_bounds(values)
    assert low <= min(values) * (1 + 1e-8) and max(values) <= high * (1 + 1e-8) and low < high
    scale = LogScale(low, high, 0.0, 1000.0)
    assert len(scale.ticks(6)) >= 2
    for value in values:
        assert scale.invert(scale(value)) == pytest.approx(value, rel=1e-9)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_move_apart_and_keep_their_order(places):
    moved = spread(places, 0, 300)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for one, other in itertools.pairwise(order):
        assert moved[other] - moved[one] >= LINE - 1e-9
    assert max(moved) <= 300 + 1e-9
    if all(b - a >= LINE for a, b in itertools.pairwise(sorted(places))):
        assert moved == places


def test_a_long_curve_shows_its_spike_and_its_gaps():
    ys = [2.0 + 0.1 * math.sin(n) for n in range(5000)]
    ys[1234], ys[4000], ys[4001] = 9.75, math.nan, math.inf
    xs = [float(n) for n in range(5000)]
    chart = line_chart("Loss", "", [Curve("training", xs, ys, "c0")])
    assert "between 1.9 and 9.75" in chart and "× marks where 2 values are not finite." in chart
    places = [float(point.split(",")[1]) for point in chart.split('<polygon points="')[1].split('"')[0].split()]
    low, high = map(float, chart.split('data-y="')[1].split('"')[0].split())
    assert high - min(places) / 220 * (high - low) == pytest.approx(9.75, abs=0.01)
    late = line_chart("Loss", "", [Curve("training", xs, ys, "c0")], clips=True)
    low, high = map(float, late.split('data-y="')[1].split('"')[0].split())
    assert "↑ 9.75" in late and low >= 1.8 and high <= 2.2  # the others set the scale; an arrow says how large it is
    assert "↑" not in chart


def test_a_value_far_below_all_others_is_on_the_scale():
    xs, ys = [float(n) for n in range(200)], [2.0 + 0.1 * math.sin(n) for n in range(200)]
    ys[100] = -5.0
    low, high = map(
        float, line_chart("Loss", "", [Curve("a", xs, ys, "c0")], clips=True).split('data-y="')[1].split('"')[0].split()
    )
    assert low <= -5 and high <= 4


def test_curves_without_a_finite_value_are_left_out():
    assert line_chart("Loss", "", [Curve("a", [], [], "c0"), Curve("b", [1.0], [math.nan], "c0")]) is None
    alone = line_chart("Loss", "", [Curve("a", [5.0], [3.0], "c0")])
    assert "from 3 to 3" in alone and "nan" not in alone


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1.87466, 4, "1.875"), (0.04, 4, "0.04"), (123456.7, 4, "123,457"), (0, 4, "0"), (-2.5, 2, "−2.5"),
        (0.0000123, 4, "1.23e-5"), (math.nan, 4, "–"), (None, 4, "–"), (math.inf, 4, "∞"), (9.9996, 4, "10"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, digits, shown):
    assert numbers.significant(value, digits).replace("−5", "-5") == shown


def test_units_are_those_of_the_field():
    assert numbers.compact(99_840) == "99.8 k" and numbers.compact(1.3e9) == "1.3 B" and numbers.compact(999.9) == "1 k"
    assert numbers.quantity(1.43e15, "FLOP") == "1.43 PFLOP" and numbers.quantity(0.41, "J") == "0.41 J"
    assert numbers.duration(12.34) == "12.3 s" and numbers.duration(3712.4) == "1 h 2 min"
    assert numbers.duration(59.96) == "60 s" and numbers.duration(200_000) == "2 d 7 h"
    assert numbers.percent(0.0004) == "0.0%" and numbers.percent(None) == "–"
