"""Self-BLEU against sacrebleu, sentence by sentence with all the others as references."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from train.quality.ngrams import Tokens
from train.quality.self_bleu import self_bleu

ORACLE = sacrebleu.BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=False)


def of_sacrebleu(texts: list[list[int]]) -> float:
    lines = [" ".join(map(str, text)) for text in texts]
    scores = [ORACLE.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)]
    return sum(scores) / len(scores) / 100


def of_ours(texts):
    return self_bleu(Tokens([np.array(text, np.int64) for text in texts]).ngrams(4))


def test_two_sentences_by_hand():
    """a b c d e and a b c d f: 4 of 5 tokens, 3 of 4 pairs, 2 of 3 triples, 1 of 2 4-grams match, and the lengths are
    equal: (4/5 * 3/4 * 2/3 * 1/2)^(1/4) = .2^(1/4) = .6687, each of the other."""
    assert of_ours([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]).value == pytest.approx(0.2**0.25)


def test_the_clipped_example_of_papineni_2002_by_hand():
    """the the the the the the the beside "the cat is on the mat" has 2 of 7 (their section 2.1), no pair of 6, no
    triple of 5, no 4-gram of 4. The other way round 2 of 6 tokens, and 6 tokens against 7: exp(1 - 7/6)."""
    first = (2 / 7 * 0.1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25
    second = math.exp(-1 / 6) * (2 / 6 * 0.1 / 5 * 0.1 / 4 * 0.1 / 3) ** 0.25
    assert of_ours([[0] * 7, [0, 1, 2, 3, 0, 4]]).value == pytest.approx((first + second) / 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=12), min_size=3, max_size=7))
def test_it_is_sacrebleu_also_without_any_one_text(texts):
    found = of_ours(texts)
    assert found.value == pytest.approx(of_sacrebleu(texts), abs=1e-9)
    without = [of_sacrebleu(texts[:i] + texts[i + 1 :]) for i in range(len(texts))]
    assert found.without_N == pytest.approx(without, abs=1e-9)


def test_longer_texts_over_a_vocabulary_as_it_is():
    random = np.random.default_rng(0)
    texts = [(random.zipf(1.3, length) % 500).tolist() for length in random.integers(20, 60, 25)]
    found = of_ours(texts)
    assert found.value == pytest.approx(of_sacrebleu(texts), abs=1e-9)
    assert found.without_N[3] == pytest.approx(of_sacrebleu(texts[:3] + texts[4:]), abs=1e-9)


def test_texts_too_short_for_4_grams_are_scored_as_by_nltk():
    """Orders that a text has none of count as EPSILON of one. sacrebleu leaves them out."""
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk comes with the extra harness")
    texts = [[1, 2], [2, 1, 2], [3], [1, 2, 3, 1, 2, 3]]
    method1 = bleu.SmoothingFunction().method1
    scores = [
        bleu.sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=method1) for i, text in enumerate(texts)
    ]
    assert of_ours(texts).value == pytest.approx(np.mean(scores))


def test_equal_texts_have_1_and_texts_that_share_nothing_0():
    assert of_ours([[1, 2, 3, 4, 5]] * 3).value == 1
    assert of_ours([[1, 2, 3, 4], [5, 6, 7, 8]]).value == 0


def test_an_empty_text_is_like_no_other():
    assert of_ours([[], [1, 2, 3, 4], [1, 2, 3, 4]]).value == pytest.approx(2 / 3)


def test_one_text_has_nothing_to_be_compared_with():
    found = of_ours([[1, 2, 3]])
    assert math.isnan(found.value) and np.isnan(found.without_N).all()
    assert np.isnan(of_ours([[1, 2, 3, 4], [1, 2, 3, 5]]).without_N).all()
