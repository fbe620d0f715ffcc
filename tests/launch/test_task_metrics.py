"""Metrics of evaluation tasks: against published figures, sacrebleu, scikit-learn and lm-evaluation-harness."""

import math

import numpy as np
import pytest

from launch.inference.likelihood import ContinuationScore
from launch.inference.tasks.example import Example
from launch.inference.tasks.metrics import METRICS
from launch.inference.tasks.statistics import macro_f1, wilson_interval


def results_of(name: str, asked: list) -> list[dict]:
    """The results of (example, log-probabilities, output)."""
    metric = METRICS[name]
    return [
        metric.result(example, [ContinuationScore(-x, 1, x > -1) for x in log_probabilities], output)
        for example, log_probabilities, output in asked
    ]


def example(choices: tuple[str, ...], label: int) -> Example:
    return Example(0, "questions.jsonl:1", "A question.", " " + choices[label], choices, label)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998_table_1_method_3(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx([low, high], abs=5e-5)
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=5e-5)
    assert mirrored[0] >= 0 and mirrored[1] <= 1


F1 = [
    # The example of scikit-learn's f1_score; F1 of 0 is 4/5, the others have none right.
    ("012012", "021001", (4 / 5 + 0 + 0) / 3),
    ("aabb", "aabb", 1.0),  # a class c that is in neither list is none
    ("aabb", "aacc", (1 + 0 + 0) / 3),  # predicted and never true: 0
    ("aabc", "aabb", (1 + 2 / 3 + 0) / 3),  # true and never predicted: 0
]


@pytest.mark.parametrize(("truth", "predicted", "mean"), F1)
def test_macro_f1_counts_the_classes_that_either_list_holds(truth, predicted, mean):
    assert macro_f1(list(truth), list(predicted)) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize(("truth", "predicted", "mean"), F1)
def test_the_same_by_scikit_learn_itself(truth, predicted, mean):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed", exc_type=ImportError)
    assert metrics.f1_score(list(truth), list(predicted), average="macro") == pytest.approx(mean, abs=1e-12)


def test_an_answer_outside_the_set_is_wrong_and_no_class():
    assert macro_f1(["a", "a", "b"], ["a", None, "b"]) == pytest.approx((2 / 3 + 1) / 2)


QUESTIONS = [
    (example(("no", "yes, it is"), 0), [-3.0, -4.0]),  # by itself the first; per character -1.5 against -0.4
    (example(("a", "b"), 1), [-2.0, -2.0]),  # of equal ones the first
    (example(("über", "uber!"), 1), [-4.0, -4.9]),  # characters: -1.0, -0.98; bytes: -0.8, -0.98
    (example(("x", "y", "zz"), 2), [-9.0, -8.0, -1.0]),
]


def test_multiple_choice_is_decided_as_by_hand():
    found = METRICS["multiple_choice"].summary(
        results := results_of("multiple_choice", [(e, lls, None) for e, lls in QUESTIONS])
    )
    assert [result["correct"] for result in results] == [True, False, False, True]
    assert (found["accuracy"], found["accuracy_per_character"], found["accuracy_per_byte"]) == (2 / 4, 2 / 4, 1 / 4)
    assert found["accuracy_per_byte_interval"] == wilson_interval(1, 4)
    assert METRICS["multiple_choice"].continuations(QUESTIONS[0][0]) == [" no", " yes, it is"]


def test_multiple_choice_is_decided_as_lm_evaluation_harness_does():
    harness = pytest.importorskip("lm_eval.api.task", reason="lm_eval is not installed")
    results = results_of("multiple_choice", [(e, lls, None) for e, lls in QUESTIONS])
    for (asked, lls), result in zip(QUESTIONS, results, strict=True):
        document = {"gold": asked.label, "choices": list(asked.choices)}
        theirs = harness.MultipleChoiceTask.process_results(None, document, [(x, False) for x in lls])
        assert theirs["acc"] == result["correct"]
        assert theirs["acc_norm"] == (result["chosen_per_character"] == result["answer"])


def test_classification_counts_likelihood_and_written_words_apart():
    labels = ("bad", "good")
    asked = [
        (example(labels, 0), [-1.0, -2.0], "bad"),
        (example(labels, 0), [-2.0, -1.0], "bad"),
        (example(labels, 1), [-2.0, -1.0], "good grief"),
        (example(labels, 1), [-2.0, -1.0], "bad"),
    ]
    found = METRICS["classification"].summary(results_of("classification", asked))
    assert (found["accuracy"], found["generation_accuracy"], found["generation_outside"]) == (3 / 4, 2 / 4, 1 / 4)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # bad: 1 right, 0 wrong, 1 missed; good: 2, 1, 0
    assert found["generation_macro_f1"] == pytest.approx((4 / 5 + 0) / 2)  # bad: 2 right, 1 wrong; good: none
    assert found["generation_accuracy_interval"] == wilson_interval(2, 4)


def test_a_cloze_has_the_perplexity_of_an_example_and_the_loss_of_a_token():
    texts = [Example(0, "", "The old", " sea"), Example(1, "", "The old", " oak tree")]
    scores = [[ContinuationScore(0.5, 1, True)], [ContinuationScore(2.5, 3, False)]]
    metric = METRICS["cloze"]
    found = metric.summary([metric.result(text, own, None) for text, own in zip(texts, scores, strict=True)])
    assert found["perplexity"] == pytest.approx(math.exp((0.5 + 2.5) / 2)) and found["loss"] == pytest.approx(3 / 4)
    assert found["accuracy"] == 0.5 and metric.continuations(texts[1]) == [" oak tree"]
    hopeless = metric.summary([metric.result(texts[0], [ContinuationScore(2000.0, 1, False)], None)])
    assert np.isfinite(hopeless["perplexity"])


def test_an_exact_match_does_not_mind_space_around_the_answer():
    asked = [(Example(0, "", "2 + 2 =", " 4\n"), [], "4"), (Example(1, "", "2 + 3 =", " 5"), [], "5.")]
    assert METRICS["exact_match"].summary(results_of("exact_match", asked))["accuracy"] == 0.5


def test_translations_have_sacrebleus_corpus_scores_and_signatures():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    references = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    outputs = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    asked = [(Example(i, "", "", f" {r}"), [], o) for i, (r, o) in enumerate(zip(references, outputs, strict=True))]
    found = METRICS["translation"].summary(results := results_of("translation", asked))
    assert found["bleu"] == sacrebleu.corpus_bleu(outputs, [references]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(outputs, [references]).score
    for signature in (found["bleu_signature"], found["chrf_signature"]):
        assert signature.startswith("nrefs:1|case:mixed|eff:") and f"version:{sacrebleu.__version__}" in signature
    assert results[1]["chrf"] == sacrebleu.sentence_chrf(outputs[1], [references[1]]).score
