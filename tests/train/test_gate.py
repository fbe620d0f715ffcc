"""Intervals that human text spans: the jackknife by hand, how often other human text lies within, and what does not."""

import math

import numpy as np
import pytest

from train.quality.gate import GATED, describe_failure, gate, human_intervals

VOCABULARY, LENGTH, COUNT = 500, 40, 32


def people(count: int, seed: int, length: int = LENGTH) -> list[np.ndarray]:
    """Texts of frequent and rare words, each with a subject of its own, and a refrain in some."""
    random, texts = np.random.default_rng(seed), []
    for _ in range(count):
        weights = 1 / np.arange(1, VOCABULARY + 1)
        weights[random.choice(VOCABULARY, 10, replace=False)] += 0.3 * random.gamma(1.0)
        text = random.choice(VOCABULARY, length, p=weights / weights.sum())
        if random.random() < 0.3:
            text[-12:-6] = text[-6:]
        texts.append(text)
    return texts


def repeated_4_grams(text: np.ndarray) -> float:
    grams = [tuple(text[i : i + 4].tolist()) for i in range(len(text) - 3)]
    return 1 - len(set(grams)) / len(grams)


def test_the_width_of_a_mean_over_texts_is_its_standard_error_times_root_two_and_a_quantile_of_the_maximum():
    texts = people(COUNT, 0)
    human = human_intervals(texts)
    shares = np.array([repeated_4_grams(text) for text in texts])
    seen = [np.mean([token in text[max(0, i - 16) : i] for i, token in enumerate(text)]) for text in texts]
    for name, by_text in (("seq_rep_4", shares), ("rep_16", seen)):
        assert human.centres[name] == pytest.approx(np.mean(by_text), rel=1e-12)
        error = np.std(by_text, ddof=1) / math.sqrt(COUNT)
        quantile = human.half_widths[name] / (math.sqrt(2) * error)
        assert 1.97 < quantile < 2.84, "of one measure, and of as many that have nothing to do with each other (Sidak)"
    assert human_intervals(texts, 0.5).half_widths["zipf"] < human.half_widths["zipf"]


def test_other_texts_of_people_pass_as_often_as_the_level_says():
    pairs = [(people(COUNT, 2 * seed + 1), people(COUNT, 2 * seed)) for seed in range(30)]
    results = [gate(*pair) for pair in pairs]
    assert np.mean([result["passed"] for result in results]) > 0.85, "95 in 100, three standard deviations less"
    assert 0 < np.mean([result["distance"] for result in results]) < 0.5
    assert 0.3 < np.mean([gate(*pair, 0.5)["passed"] for pair in pairs]) < 0.7


def test_loops_dull_words_and_noise_leave_the_interval_by_the_measures_that_show_them():
    human = people(COUNT, 0)
    assert gate(human, human)["distance"] == 0 and gate(human, human)["passed"]
    random = np.random.default_rng(1)
    loops = [np.resize(text[:5], LENGTH) for text in human]
    noise = [random.choice(10 * VOCABULARY, LENGTH) for _ in range(COUNT)]
    dull = [random.choice(20, LENGTH) for _ in range(COUNT)]
    for texts, side in ((loops, {"seq_rep_4": 1, "distinct_2": -1}), (noise, {"entropy": 1, "rep_16": -1}),
                        (dull, {"entropy": -1, "distinct_1": -1, "rep_16": 1})):  # fmt: skip
        result = gate(texts, human)
        assert not result["passed"] and result["distance"] > 2
        for name, sign in side.items():
            measure = result["measures"][name]
            low, high = measure["interval"]
            assert not measure["inside"] and (measure["value"] > high if sign > 0 else measure["value"] < low), name
        line = describe_failure(result)
        assert line.startswith(f"left the interval that {COUNT} human texts of {LENGTH} tokens span: ")
        assert all(name in line for name in side) and "\n" not in line


def test_one_word_again_and_again_has_no_zipf_exponent_and_the_greatest_distance():
    result = gate([np.full(LENGTH, 3)] * COUNT, people(COUNT, 0))
    assert result["measures"]["zipf"] == {
        "value": None,
        "interval": result["measures"]["zipf"]["interval"],
        "inside": False,
    }
    assert "zipf is undefined (" in describe_failure(result) and math.isfinite(result["distance"])


def test_texts_without_any_repetition_let_a_single_token_more_through():
    human = [np.arange(LENGTH) + LENGTH * number for number in range(COUNT)]
    low, high = human_intervals(human).interval("seq_rep_4")
    assert low == 0 and 1 / (LENGTH * COUNT) < high < 6 / (LENGTH * COUNT)


def test_texts_are_cut_to_equal_numbers_and_lengths():
    result = gate(people(COUNT + 5, 1, LENGTH + 9), people(COUNT, 0))
    assert (result["texts"], result["tokens"], set(result["measures"])) == (COUNT, LENGTH, set(GATED))


def test_texts_that_say_nothing_of_their_spread_are_refused():
    with pytest.raises(ValueError, match="1 human texts: two at least have a spread"):
        human_intervals(people(1, 0))
    with pytest.raises(ValueError, match="human texts of 3 tokens are too short for seq_rep_4, distinct_4, entropy_4"):
        human_intervals([text[:3] for text in people(COUNT, 0)])
