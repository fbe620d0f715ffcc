"""Measures of diversity and repetition: worked by hand, and against a naive definition in plain Python."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.quality.diversity import MEASURES, estimates, length_matched, measure
from train.quality.loops import ends_in_loop
from train.quality.ngrams import Tokens
from train.quality.zipf import exponent

SMALL_TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=14), min_size=2, max_size=7)
RANDOM = np.random.default_rng(0)


def texts_of(*words: str) -> list[np.ndarray]:
    """A letter is a token."""
    return [np.array([ord(letter) for letter in word], np.int32) for word in words]


# --- definitions, in plain Python -------------------------------------------------------------------------------------


def ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def all_ngrams(texts, n):
    return [ngram for text in texts for ngram in ngrams(text, n)]


def naive_distinct(texts, n):
    found = all_ngrams(texts, n)
    return len(set(found)) / len(found) if found else math.nan


def naive_entropy(texts, n):
    found = all_ngrams(texts, n)
    shares = [count / len(found) for count in Counter(found).values()]
    return -sum(p * math.log2(p) for p in shares) if found else math.nan


def naive_zipf(texts):
    counts = sorted(Counter(all_ngrams(texts, 1)).values(), reverse=True)[:5000]
    if len(counts) < 2:
        return math.nan
    return -np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0]


def naive_repetition(texts, window):
    seen = [token in text[max(0, t - window) : t] for text in texts for t, token in enumerate(text)]
    return sum(seen) / len(seen) if seen else math.nan


def naive_sequence_repetition(texts, n):
    each = [1 - len(set(ngrams(text, n))) / len(ngrams(text, n)) for text in texts if len(text) >= n]
    return sum(each) / len(each) if each else math.nan


def naive_loop(text):
    return any(len(text) >= 3 * n and list(text[-n:]) * 3 == list(text[-3 * n :]) for n in range(2, len(text) + 1))


NAIVE = {
    **{f"distinct_{n}": lambda texts, n=n: naive_distinct(texts, n) for n in (1, 2, 3, 4)},
    "entropy": lambda texts: naive_entropy(texts, 1),
    "entropy_4": lambda texts: naive_entropy(texts, 4),
    "zipf": naive_zipf,
    **{f"rep_{window}": lambda texts, window=window: naive_repetition(texts, window) for window in (16, 32, 128)},
    "seq_rep_4": lambda texts: naive_sequence_repetition(texts, 4),
    "loop_rate": lambda texts: sum(map(naive_loop, texts)) / len(texts),
}


@settings(max_examples=80, deadline=None)
@given(SMALL_TEXTS)
def test_every_measure_is_its_definition_also_without_any_one_text(texts):
    found = estimates([np.array(text, np.int32) for text in texts], tuple(NAIVE))
    for name, naive in NAIVE.items():
        assert found[name].value == pytest.approx(naive(texts), abs=1e-9, nan_ok=True), name
        without = [naive(texts[:i] + texts[i + 1 :]) for i in range(len(texts))]
        assert found[name].without_N == pytest.approx(without, abs=1e-9, nan_ok=True), name


def test_longer_texts_have_windows_that_are_shorter_than_they():
    texts = [RANDOM.integers(0, 60, length).tolist() for length in (150, 3, 90)]
    found = measure([np.array(text) for text in texts])
    for name, naive in NAIVE.items():
        assert found[name] == pytest.approx(naive(texts), abs=1e-12), name
    assert 0 < found["rep_16"] < found["rep_32"] < found["rep_128"]


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_two_texts_by_hand():
    """abab and abcd: of 8 tokens 4 are different, of 6 pairs (ab ba ab, ab bc cd) 4, of 4 triples (aba bab, abc bcd) 4.

    Tokens are a 3/8, b 3/8, c 1/8, d 1/8: 2 * 3/8 * log2(8/3) + 2 * 1/8 * 3 = 1.0613 + .75 = 1.8113 bits. Two 4-grams,
    once each: 1 bit. The second a and b of abab stood there before: 2 of 8."""
    found = measure(texts_of("abab", "abcd"))
    assert [found[f"distinct_{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1 / 2, 2 / 3, 1, 1])
    assert found["entropy"] == pytest.approx(1.8113, abs=5e-5) and found["entropy_4"] == 1
    assert found["rep_16"] == 0.25 and found["seq_rep_4"] == 0 and found["loop_rate"] == 0


def test_repeated_4_grams_by_hand():
    """abcdabcd has 5 4-grams (abcd bcda cdab dabc abcd), 4 of them different: 1/5; abcdefgh none repeated. abc has no
    4-gram, and is no part of the mean."""
    assert measure(texts_of("abcdabcd", "abcdefgh", "abc"))["seq_rep_4"] == pytest.approx(0.1)


def test_a_window_holds_exactly_as_many_tokens_as_it_says():
    """a stands again 16 tokens later: inside rep/16; 17 later: outside, and inside rep/32."""
    near, far = [0, *range(1, 16), 0], [0, *range(1, 17), 0]
    assert measure([near, near])["rep_16"] == 1 / 17
    assert measure([far, far])["rep_16"] == 0 and measure([far, far])["rep_32"] == 1 / 18


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("xyababab", True),
        ("abababx", False),  # not at the end
        ("xabab", False),  # twice
        ("xabcabcabc", True),
        ("xaaaaa", False),  # aa twice and a half
        ("aaaaaa", True),  # aa three times
        ("cabababa", True),  # ba three times
        ("", False),
    ],
)
def test_what_a_loop_is(text, loops):
    """A phrase of at least two tokens at least three times at the end (Holtzman et al. 2020)."""
    assert ends_in_loop(Tokens(texts_of(text, "a longer text beside it")))[0] == loops


@pytest.mark.parametrize("s", [0.7, 1.0, 1.4])
def test_zipf_finds_the_exponent_of_a_power_law(s):
    assert exponent(1e12 * np.arange(1.0, 3000) ** -s) == pytest.approx(s)


def test_zipf_by_hand():
    """Counts 4, 2, 1 at ranks 1, 2, 3: log2 ranks 0, 1, 1.5850 about their mean .8617 are -.8617, .1383, .7233; with
    log2 counts 2, 1, 0: (1.7233 - .1383) / (.7424 + .0191 + .5232) = 1.5850 / 1.2848 = 1.2337."""
    assert measure(texts_of("aaaabb", "c"))["zipf"] == pytest.approx(1.2337, abs=5e-5)


def test_zipf_looks_at_5000_ranks_only():
    counts = np.arange(6000, 0, -1)
    assert exponent(counts) == exponent(counts[:5000]) != exponent(counts[:4000])


def test_distinct_n_of_random_draws_is_what_probability_says():
    """Of V equally likely tokens M draws leave V (1 - (1 - 1/V)^M) different ones, in the mean."""
    vocabulary, drawn = 500, 20 * 40
    values = [measure(RANDOM.integers(0, vocabulary, (20, 40)))["distinct_1"] for _ in range(20)]
    expected = vocabulary * (1 - (1 - 1 / vocabulary) ** drawn) / drawn
    assert np.mean(values) == pytest.approx(expected, rel=0.01)


# --- what may come in -------------------------------------------------------------------------------------------------


def test_texts_with_nothing_in_them_have_no_measures_and_no_warning(recwarn):
    found = measure(texts_of("", ""))
    assert list(found) == list(MEASURES) and found["loop_rate"] == 0 and not recwarn.list
    assert all(math.isnan(found[name]) for name in ("distinct_1", "zipf", "rep_16", "seq_rep_4"))


def test_one_token_over_and_over():
    found = measure(texts_of("a" * 50, "a" * 50))
    assert math.isnan(found["zipf"]) and found["entropy"] == 0 and found["loop_rate"] == 1
    assert found["distinct_1"] == 0.01 and found["rep_16"] == 0.98 and found["self_bleu"] == 1


def test_ids_of_a_large_vocabulary_are_only_names():
    """4-grams of ids near 2^31 are told apart: they are numbered, not packed."""
    random = RANDOM.integers(0, 40, (6, 50))
    assert measure(random) == measure(random * 50_000_017)


def test_a_text_that_is_no_sequence_of_integers_is_named():
    with pytest.raises(ValueError, match=r"text 1 is float64 \[2\]; a text is integers \[t\]"):
        measure([np.array([1]), np.array([0.5, 1])])
    with pytest.raises(ValueError, match=r"text 0 is int64 \[1, 2\]"):
        measure([np.array([[1, 2]])])


# --- equal lengths ----------------------------------------------------------------------------------------------------


def test_settings_are_cut_to_equal_numbers_and_lengths():
    found = length_matched(
        {"human": texts_of("abcdef", "abcde", "abcd"), "greedy": texts_of("ab", "abcdefg")}, length=5
    )
    assert found.length == 5 and found.count == 1
    assert found.indices == {"human": [0], "greedy": [1]}
    assert [len(text) for texts in found.texts.values() for text in texts] == [5, 5]


def test_the_length_is_one_that_most_texts_of_every_setting_have():
    long, short = texts_of(*["a" * 100] * 20), texts_of(*["a" * 80] * 18, "a" * 3, "a")
    found = length_matched({"human": long, "short": short})
    assert (found.length, found.count) == (80, 18)


def test_a_setting_that_has_no_text_of_that_length_is_named():
    with pytest.raises(ValueError, match="no text of setting short has 5 tokens"):
        length_matched({"long": texts_of("abcdef"), "short": texts_of("abc", "")}, length=5)


def test_length_matters_so_it_is_matched():
    """The same distribution, three times as long: distinct-2 falls, entropy and rep/128 rise."""
    short, long = RANDOM.zipf(1.3, (60, 40)) % 1000, RANDOM.zipf(1.3, (60, 120)) % 1000
    apart = measure(long)["distinct_2"] - measure(short)["distinct_2"]
    texts = length_matched({"short": short, "long": long}).texts
    matched = measure(texts["long"])["distinct_2"] - measure(texts["short"])["distinct_2"]
    assert abs(matched) < 0.03 < 0.1 < -apart
