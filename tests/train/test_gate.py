"""Intervals that human text spans: the jackknife by hand, how often other human text lies within, and what does not."""

import math

import numpy as np
import pytest
from scipy import stats

from train.quality.diversity import measure
from train.quality.gate import GATED, LEVEL, describe_failure, gate, human_intervals

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


def test_an_interval_is_that_of_another_sample_at_bonferronis_level_by_hand():
    """Of Zipf's exponent, which has no bounds: centre ± t * jackknife error * root of two."""
    texts = people(COUNT, 0)
    without = np.array([measure(texts[:i] + texts[i + 1 :])["zipf"] for i in range(COUNT)])
    error = math.sqrt((COUNT - 1) / COUNT * np.square(without - without.mean()).sum())
    half = stats.t.ppf(1 - (1 - LEVEL) / len(GATED) / 2, COUNT - 1) * error * math.sqrt(2)
    centre = measure(texts)["zipf"]
    human = human_intervals(texts)
    assert human.interval("zipf") == pytest.approx([centre - half, centre + half], rel=1e-9)
    values = dict(human.centres) | {"zipf": centre - half / 2}
    assert human.deviations(values)["zipf"] == pytest.approx(0.5)
    assert human.distance(values) == pytest.approx(0.5 / math.sqrt(len(GATED)))


def test_other_texts_of_people_pass_as_often_as_the_level_says():
    pairs = [(people(COUNT, 2 * seed + 1), people(COUNT, 2 * seed)) for seed in range(30)]
    results = [gate(*pair) for pair in pairs]
    assert np.mean([result["passed"] for result in results]) > 0.85, "95 in 100 at least, less what chance makes of 30"
    assert 0 < np.mean([result["distance"] for result in results]) < 0.5
    assert 0.4 < np.mean([gate(*pair, 0.5)["passed"] for pair in pairs]) < 0.95


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
    assert low == 0 and high > 1 / (LENGTH * COUNT)
    human[0][-4:] = human[0][:4]
    assert human_intervals(human).deviations(dict.fromkeys(GATED, 0.5))["seq_rep_4"] > 1


def test_texts_are_cut_to_equal_numbers_and_lengths():
    result = gate(people(COUNT + 5, 1, LENGTH + 9), people(COUNT, 0))
    assert (result["texts"], result["tokens"], set(result["measures"])) == (COUNT, LENGTH, set(GATED))


def test_texts_that_end_early_do_not_pass_however_human_their_beginnings():
    human = people(COUNT, 0)
    result = gate([text[:6] for text in people(COUNT, 1)], human)
    assert not result["passed"] and result["too_short"]
    assert (result["tokens"], result["human_tokens"]) == (6, LENGTH)
    assert f"a tenth of them or more before token 7; people's have {LENGTH}" in describe_failure(result)
    loops = [text[:6] if number % 5 == 0 else np.full(LENGTH, 3) for number, text in enumerate(people(COUNT, 1))]
    assert not gate(loops, human)["passed"]
    cut = gate([text[: LENGTH // 2] for text in human], human)
    assert cut["passed"] and not cut["too_short"] and cut["tokens"] == LENGTH // 2


def test_texts_that_say_nothing_of_their_spread_are_refused():
    with pytest.raises(ValueError, match="1 human texts; at least 20"):
        human_intervals(people(1, 0))
    with pytest.raises(ValueError, match="human texts of 3 tokens are too short for "):
        human_intervals([text[:3] for text in people(COUNT, 0)])
