"""MAUVE against areas worked by hand, and on Gaussians."""

import math

import numpy as np
import pytest

from train.quality.mauve import area, components, divergence_curve, mauve, mauve_of_histograms, unit_rows


def gaussians(texts: int, width: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(texts, width)) + shift


def beta(a: float, b: float) -> float:
    return math.gamma(a) * math.gamma(b) / math.gamma(a + b)


def test_equal_histograms_have_1():
    assert mauve_of_histograms([0.5, 0.5], [0.5, 0.5]) == pytest.approx(1)
    assert mauve_of_histograms([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]) == pytest.approx(1)


def test_disjoint_histograms_by_hand():
    """KL(p|r) = -log w, KL(q|r) = -log(1 - w): y = w^5, x = (1 - w)^5, and the area under it is 5 B(5, 6) = 1 / 252. By
    trapezoids between 25 points it is a little more, since the curve is hollow."""
    fine = area(divergence_curve(np.array([1.0, 0]), np.array([0, 1.0]), points=5001))
    assert fine == pytest.approx(1 / 252, rel=1e-4)
    assert 1 / 252 < mauve_of_histograms([1, 0], [0, 1]) < 1.05 / 252


def test_overlapping_histograms_by_hand():
    """p = (1, 0), q = (1/2, 1/2), r = ((1 + w)/2, (1 - w)/2): KL(p|r) = log 2/(1 + w), so y = ((1 + w)/2)^5; KL(q|r) =
    -log(1 - w^2)/2, so x = (1 - w^2)^(5/2). The area is 1/32, up to where y begins, and the integral of x dy = (1 -
    w^2)^(5/2) 5/32 (1 + w)^4 dw: of w^k (1 - w^2)^(5/2) it is B((k + 1)/2, 7/2)/2."""
    expected = 1 / 32 + 5 / 32 * sum(math.comb(4, k) * beta((k + 1) / 2, 3.5) / 2 for k in range(5))
    fine = area(divergence_curve(np.array([1.0, 0]), np.array([0.5, 0.5]), points=5001))
    assert fine == pytest.approx(expected, rel=1e-4)
    assert mauve_of_histograms([1, 0], [0.5, 0.5]) == pytest.approx(expected, rel=0.01)


def test_it_does_not_matter_which_side_is_which():
    p, q = np.array([0.7, 0.2, 0.1, 0]), np.array([0.1, 0.3, 0.2, 0.4])
    assert mauve_of_histograms(p, q) == pytest.approx(mauve_of_histograms(q, p))


def test_the_curve_goes_from_one_axis_to_the_other():
    curve = divergence_curve(np.array([0.6, 0.4]), np.array([0.3, 0.7]))
    assert curve.shape == (27, 2) and curve[0].tolist() == [1, 0] and curve[-1].tolist() == [0, 1]
    assert (np.diff(curve[:, 0]) <= 0).all() and (np.diff(curve[:, 1]) >= 0).all()


def test_a_greater_shift_has_a_lower_score():
    scores = [mauve(gaussians(300, 8), gaussians(300, 8, shift, seed=1)).score for shift in (0, 0.3, 0.6, 1.2)]
    assert scores[0] > 0.9 and scores[-1] < 0.1 and all(np.diff(scores) < -0.05)


def test_features_that_never_meet_have_what_disjoint_histograms_have():
    far = 50 * np.eye(4)[0]
    apart = mauve(gaussians(100, 4) + far, gaussians(100, 4) - far)
    assert apart.score == pytest.approx(mauve_of_histograms([1, 0], [0, 1]))


def test_clusters_are_a_tenth_of_the_texts_and_components_hold_nine_tenths_of_the_variance():
    found = mauve(gaussians(120, 6), gaussians(80, 6))
    assert found.clusters == 8 and 1 <= found.components <= 6
    features = gaussians(500, 3) * [10, 3, 0.1]  # variances 100, 9, .01: the first holds 91.7%
    assert components(features).shape[1] == 1
    kept = components(gaussians(500, 3) * [10, 5, 0.1])
    assert kept.shape[1] == 2
    assert kept.var(0).sum() == pytest.approx((gaussians(500, 3) * [10, 5, 0.1]).var(0).sum(), rel=1e-3)


def test_only_directions_count_and_texts_that_are_all_alike_are_one_cluster():
    p, q = gaussians(60, 5), gaussians(60, 5, 0.5, seed=1)
    scale = np.random.default_rng(2).uniform(1, 9, (60, 1))
    assert mauve(p, q).score == pytest.approx(mauve(p * scale, q).score)
    assert np.linalg.norm(unit_rows(np.zeros((2, 3)))) == 0
    same = mauve(np.ones((30, 4)), np.ones((30, 4)))
    assert same.score == pytest.approx(1) and same.clusters == 1


def test_the_same_seed_gives_the_same_score():
    p, q = gaussians(60, 5), gaussians(60, 5, 0.3, seed=1)
    assert mauve(p, q, seed=3).score == mauve(p, q, seed=3).score


def test_the_interval_holds_the_mean_of_other_samples():
    """It is given the clusters; those vary from sample to sample too."""
    found = [mauve(gaussians(100, 8, seed=i), gaussians(100, 8, 0.3, seed=1000 + i)) for i in range(60)]
    mean = np.mean([each.score for each in found])
    assert np.mean([each.interval[0] <= mean <= each.interval[1] for each in found]) > 0.85
    assert 0.6 < np.mean([each.error for each in found]) / np.std([each.score for each in found]) < 1.7


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), "3 and 4 wide; both sides need the same featurizer"),
        (np.ones(5), np.ones((5, 1)), r"the first features are \[5\]"),
        (np.ones((5, 1)), np.ones((1, 1)), r"the second features are \[1, 1\]"),
        (np.ones((5, 1)), np.full((5, 1), np.nan), r"the second features are \[5, 1\]; finite"),
    ],
)
def test_features_that_can_not_be_compared_are_refused(p, q, message):
    with pytest.raises(ValueError, match=message):
        mauve(p, q)
