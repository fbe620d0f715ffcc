"""MAUVE: how near the distribution of generated texts is to that of human ones (Pillutla et al. 2021, "MAUVE: Measuring
the Gap Between Neural Text and Human Text using Divergence Frontiers"), over features of texts that a model gave.

Scores compare only where the featurizer, the number of texts and their length are the same: the published ones are of
GPT-2 large's last hidden state at the last token, over 5,000 texts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans, vq
from scipy.special import stdtrit

from train.quality.intervals import CONFIDENCE, FEWEST, interval_of

SCALE = 5.0  # c of the paper
VARIANCE = 0.9  # that principal components keep
TEXTS_A_CLUSTER = 10
RESTARTS = 5
CURVE_POINTS = 25
CONVERGED = 1e-6  # change of the mean distance to a cluster's centre; features have length 1


class Mauve(NamedTuple):
    """`score`: from 0 to 1, 1 for equal histograms. `error`: its standard error, and `interval`, [low, high] of 95%,
    None with too few texts. `curve`: points [exp(-c KL(q|r)), exp(-c KL(p|r))] of mixtures r, float64 [points, 2].
    `clusters`, and `components` of the features that they are found in."""

    score: float
    error: float
    interval: list[float] | None
    curve: np.ndarray
    clusters: int
    components: int


def mauve(features_p_ND: np.ndarray, features_q_ND: np.ndarray, clusters: int | None = None, seed: int = 0) -> Mauve:
    """MAUVE of two sets of texts from their features, one row a text; the sets may differ in number.

    As the authors' code (github.com/krishnap25/mauve): rows scaled to length 1; principal components of both sets
    together, without whitening, as many as hold VARIANCE of theirs; k-means on both together, the best of RESTARTS;
    `clusters` by default a tenth of the smaller set, at least 2; the histograms of the clusters, without smoothing;
    CURVE_POINTS mixtures. Theirs is k-means of faiss, in float32, ours of SciPy, so scores differ as by another seed.

    It is biased by the number of texts, both ways. Two samples of one Gaussian in 16 dimensions do not have 1, since
    ten texts a cluster fill it unevenly: .98, .96, .97, .96 for 50, 100, 200, 500 texts (20 pairs, standard deviations
    .02 to .04). And few texts have few clusters, which see less: two Gaussians .3 apart in each dimension have .82,
    .80, .73, .68 (60 pairs, 20 for 500; deviations .14, .11, .09, .07; `error` .13, .10, .09, .06; `interval` held
    their mean in 97, 95, 90, 90%). So compare at one number of texts, with human text against human text beside it.

    Raises ValueError for features that are not finite numbers [N, D] of one width, and for fewer than 2 texts a side.
    """
    sides = [np.asarray(features, np.float64) for features in (features_p_ND, features_q_ND)]
    check(*sides)
    together = components(unit_rows(np.concatenate(sides)))
    fewer = min(len(side) for side in sides)
    wanted = clusters or max(2, round(fewer / TEXTS_A_CLUSTER))
    labels, found = cluster(together, wanted, seed)
    p, q = (np.bincount(part, minlength=found) for part in np.split(labels, [len(sides[0])]))
    curve = divergence_curve(p / p.sum(), q / q.sum())
    error = math.hypot(one_sided_error(p, q), one_sided_error(q, p))
    return Mauve(area(curve), error, interval_of_score(area(curve), error, fewer), curve, found, together.shape[1])


def one_sided_error(counts_C: np.ndarray, others_C: np.ndarray) -> float:
    """The jackknife's standard error of MAUVE for the texts of one side, the clusters as they are: leaving out one
    text of a cluster is like leaving out another of it."""
    texts, filled = counts_C.sum(), np.flatnonzero(counts_C)
    without_CF = counts_C[:, None] - np.eye(len(counts_C))[:, filled]
    q = others_C / others_C.sum()
    without_F = np.array([mauve_of_histograms(counts / counts.sum(), q) for counts in without_CF.T])
    weights_F = counts_C[filled] / texts
    return math.sqrt((texts - 1) * (weights_F @ np.square(without_F - weights_F @ without_F)))


def interval_of_score(score: float, error: float, texts: int) -> list[float] | None:
    """That of intervals.py for a measure between 0 and 1. It holds the mean of scores over samples of as many texts,
    with the bias that such samples have, not that of endless ones."""
    if texts < FEWEST:
        return None
    return interval_of(score, error, 1.0, texts, float(stdtrit(texts - 1, (1 + CONFIDENCE) / 2)))


def check(features_p_ND: np.ndarray, features_q_ND: np.ndarray) -> None:
    for name, features in (("first", features_p_ND), ("second", features_q_ND)):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(
                f"MAUVE: the {name} features are {list(features.shape)}; finite numbers [texts, width] of at least "
                "2 texts are needed"
            )
    if features_p_ND.shape[1] != features_q_ND.shape[1]:
        widths = f"{features_p_ND.shape[1]} and {features_q_ND.shape[1]} wide"
        raise ValueError(f"MAUVE: features are {widths}; both sides need the same featurizer")


def unit_rows(features_ND: np.ndarray) -> np.ndarray:
    lengths_N1 = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.where(lengths_N1 == 0, 1, lengths_N1)


def components(features_ND: np.ndarray) -> np.ndarray:
    """The first principal components that hold VARIANCE of the features' variance, [N, components], at least one."""
    centred_ND = features_ND - features_ND.mean(0)
    left_NK, values_K, _ = np.linalg.svd(centred_ND, full_matrices=False)
    share_K = np.cumsum(values_K**2) / max(np.sum(values_K**2), np.finfo(float).tiny)
    kept = min(int(np.searchsorted(share_K, VARIANCE)) + 1, len(values_K))
    return left_NK[:, :kept] * values_K[:kept]


def cluster(features_NK: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, int]:
    """The number of each row's cluster, int [N], and how many there are: k-means drops those that no row is in."""
    centres_CK, _ = kmeans(features_NK, clusters, iter=RESTARTS, thresh=CONVERGED, rng=np.random.default_rng(seed))
    return vq(features_NK, centres_CK)[0], len(centres_CK)


def mauve_of_histograms(p: np.ndarray, q: np.ndarray, scale: float = SCALE) -> float:
    """MAUVE of two distributions over the same clusters: the area under their divergence curve, 0 to 1."""
    return area(divergence_curve(np.asarray(p, np.float64), np.asarray(q, np.float64), scale))


def divergence_curve(p: np.ndarray, q: np.ndarray, scale: float = SCALE, points: int = CURVE_POINTS) -> np.ndarray:
    """exp(-c KL(q|r)), exp(-c KL(p|r)) for mixtures r = w p + (1 - w) q, float64 [points + 2, 2], w from
    0 to 1 in even steps, and both ends of the axes. As in the authors' code w stays 1e-6 from both ends."""
    weights = np.linspace(1e-6, 1 - 1e-6, points)
    mixtures = weights[:, None] * p + (1 - weights)[:, None] * q
    divergences = np.stack([kl_divergence(q, mixtures), kl_divergence(p, mixtures)], axis=1)
    inner = np.exp(-scale * np.maximum(divergences, 0))
    return np.concatenate([[[1.0, 0.0]], inner, [[0.0, 1.0]]])


def kl_divergence(p: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """KL(p|r) in nats of each row r of `mixtures`, which has a share of every cluster that p has."""
    there = p > 0
    return (p[there] * np.log(p[there] / mixtures[:, there])).sum(1)


def area(curve: np.ndarray) -> float:
    """Under the curve, by trapezoids along it. It falls from its first point to its last, so it needs no sorting, and
    integrating along either axis gives the same. (The authors' code sorts by each axis and takes the mean; where p = q
    all mixtures are one point, and equal keys in the wrong order make it .75 instead of 1.)"""
    return float(np.trapezoid(curve[:, 0], curve[:, 1]))
