"""Self-BLEU: how like one another texts are (Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation
Models")."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from train.quality.estimate import Estimate, divide
from train.quality.ngrams import NGrams

EPSILON = 0.1  # matches instead of none: nltk's method1, sacrebleu's "floor", both with this default


def self_bleu(orders: list[NGrams]) -> Estimate:
    """The mean over texts of BLEU (Papineni et al. 2002) against all the others as its references, 0 to 1; `orders`:
    the n-grams of order 1, 2, … of the same texts, at least one.

    BLEU = brevity penalty * exp(mean over n of log p_n), p_n = matches / n-grams of the text, where a match is clipped
    to the most that any one reference holds of it; EPSILON instead of 0 matches; 0 where no token matches. Equal to
    nltk's sentence_bleu with SmoothingFunction().method1, as Texygen has it, and to sacrebleu's "floor". It grows with
    the number of texts and with their length: compare it at equal ones only.

    A text has only the two texts that hold most of a type to be compared with, so all is O(pairs of type and text).
    """
    texts = orders[0].texts
    if texts < 2:
        return Estimate(float("nan"), np.full(texts, np.nan))
    matches_NO, totals_NO = np.zeros((2, texts, len(orders)))
    for order, ngrams in enumerate(orders):
        matches_NO[:, order] = ngrams.sum_by_text(np.minimum(ngrams.count_P, references(ngrams).most_P))
        totals_NO[:, order] = ngrams.lengths_N
    nearest = nearest_lengths(orders[0].lengths_N)
    bleu_N = bleu(matches_NO, totals_NO, nearest.length_N)
    text, left_out, lost_O = changes(orders, nearest)
    length = np.where(nearest.holder_N[text] == left_out, nearest.second_N[text], nearest.length_N[text])
    changed = bleu(matches_NO[text] - lost_O, totals_NO[text], length) - bleu_N[text]
    without_N = bleu_N.sum() - bleu_N + np.bincount(left_out, changed, texts)
    return Estimate(float(bleu_N.mean()), divide(without_N, texts - 1 if texts > 2 else 0))


def bleu(matches_NO: np.ndarray, totals_NO: np.ndarray, reference_N: np.ndarray) -> np.ndarray:
    """BLEU of texts, [N], from their clipped matches and n-grams by order, and their references' nearest lengths."""
    precision_NO = np.where(matches_NO > 0, matches_NO, EPSILON) / np.maximum(totals_NO, 1)
    brevity_N = np.exp(np.minimum(0, 1 - divide(reference_N, totals_NO[:, 0])))
    return np.where(matches_NO[:, 0] > 0, brevity_N * np.exp(np.log(precision_NO).mean(1)), 0)


class References(NamedTuple):
    """What the other texts hold of each pair's type, [P] each: the most that one of them holds, `most_P`, 0 where none
    does; which it is, `holder_P`, -1 where none; and the most that another one than that holds, `next_P`."""

    most_P: np.ndarray
    holder_P: np.ndarray
    next_P: np.ndarray


def references(ngrams: NGrams) -> References:
    order = np.lexsort((-ngrams.count_P, ngrams.type_P))
    starts_C = np.searchsorted(ngrams.type_P, np.arange(ngrams.types))
    holders_C = np.diff(np.append(starts_C, len(order)))
    best = []  # of every type: the text that holds most of it, and how much; the second; the third
    for place in range(3):
        pair = order[np.minimum(starts_C + place, len(order) - 1)]
        there = holders_C > place
        best.append((np.where(there, ngrams.text_P[pair], -1), np.where(there, ngrams.count_P[pair], 0)))
    (first, most), (second, more), (_, third) = [(text[ngrams.type_P], count[ngrams.type_P]) for text, count in best]
    is_first, is_second = ngrams.text_P == first, ngrams.text_P == second
    return References(
        np.where(is_first, more, most),
        np.where(is_first, second, first),
        np.where(is_first | is_second, third, more),
    )


class NearestLengths(NamedTuple):
    """Of each text: the length of another text that is nearest to its own, the shorter of two as near; a text that has
    it; and the length that is nearest when that text is left out. [N] each."""

    length_N: np.ndarray
    holder_N: np.ndarray
    second_N: np.ndarray


def nearest_lengths(lengths_N: np.ndarray) -> NearestLengths:
    """The two nearest of the others stand among the two before and the two behind in the order of lengths."""
    order = np.argsort(lengths_N, kind="stable")
    places_NA = np.argsort(order)[:, None] + np.array([-2, -1, 1, 2])
    others_NA = order[np.clip(places_NA, 0, len(order) - 1)]
    difference_NA = lengths_N[others_NA] - lengths_N[:, None]
    distance_NA = 2.0 * np.abs(difference_NA) + (difference_NA > 0)
    distance_NA[(places_NA < 0) | (places_NA >= len(order))] = np.inf
    two_N2 = np.take_along_axis(others_NA, np.argsort(distance_NA, axis=1)[:, :2], axis=1)
    return NearestLengths(lengths_N[two_N2[:, 0]], two_N2[:, 0], lengths_N[two_N2[:, 1]])


def changes(orders: list[NGrams], nearest: NearestLengths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which texts' BLEU changes when which other text is left out: texts [K], those left out [K], and how many clipped
    matches of each order are lost, [K, orders]."""
    texts = orders[0].texts
    keys, lost = [], []
    for ngrams in orders:
        found = references(ngrams)
        lost_P = np.minimum(ngrams.count_P, found.most_P) - np.minimum(ngrams.count_P, found.next_P)
        changed = lost_P > 0
        keys.append(ngrams.text_P[changed] * texts + found.holder_P[changed])
        lost.append(lost_P[changed])
    other_length = np.flatnonzero(nearest.second_N != nearest.length_N)
    by_length = other_length * texts + nearest.holder_N[other_length]
    keys_K, numbers = np.unique(np.concatenate([*keys, by_length]), return_inverse=True)
    parts = np.split(numbers, np.cumsum([len(k) for k in keys]))
    lost_KO = [np.bincount(part, count, len(keys_K)) for part, count in zip(parts[:-1], lost, strict=True)]
    return keys_K // texts, keys_K % texts, np.stack(lost_KO, axis=-1)
