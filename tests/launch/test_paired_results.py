"""Results of tasks compared: against sacrebleu's own paired bootstrap, the formula of F1, and counts by hand."""

import json

import numpy as np
import pytest
from scipy import stats

from data.errors import DataError
from launch.commands.evaluate_pair import task_in_words
from launch.inference.comparison import resampled_sums
from launch.inference.paired_results import compare_results, measures, read_results


def answers(right: str, **fields) -> list[dict]:
    """Results of one character an example: + right, - wrong."""
    return [{"task": "sums", "index": i, "prompt": f"{i}=", "answer": "yes", "correct": mark == "+",
             "output": "yes" if mark == "+" else f"no {i}", **fields} for i, mark in enumerate(right)]  # fmt: skip


def test_right_and_wrong_answers_are_paired_counted_and_shown():
    run, other = answers("+++++++--+" * 5), answers("++-++----+" * 5)
    found = compare_results(run, other)
    assert (found["accuracy"]["run"], found["accuracy"]["other"]) == (0.8, 0.5)
    assert (found["only_run"], found["only_other"]) == (15, 0)
    assert found["mcnemar"] == pytest.approx(stats.binomtest(15, 15).pvalue)
    low, high = found["accuracy"]["interval"]
    assert low < -0.3 < high < 0 and found["accuracy"]["difference"] == pytest.approx(-0.3)
    assert [example["index"] for example in found["most_different"]["run"]] == [2, 5, 6]
    first = {"index": 2, "prompt": "2=", "answer": "yes", "run": {"output": "yes", "correct": True},
             "other": {"output": "no 2", "correct": False}}  # fmt: skip
    assert found["most_different"]["run"][0] == first and found["most_different"]["other"] == []
    same = compare_results(run, run)
    assert same["accuracy"]["interval"] == [0, 0] and same["mcnemar"] == 1


def test_a_disagreement_shows_the_answers_that_count():
    """The likeliest label of a classification, though both wrote the other's; the text of exact_match; of words behind
    a text whether they were the likeliest, since the side that is right may find them less likely."""
    known = {"task": "moods", "index": 0, "prompt": "p0", "answer": "good"}
    right = {"chosen": "good", "output": "bad", "written": "bad", "scores": [-2.0, -1.0], "correct": True}
    wrong = {"chosen": "bad", "output": "good", "written": "good", "scores": [-1.0, -2.0], "correct": False}
    words = [{"scores": [-3.0], "tokens": 2, "correct": True}, {"scores": [-2.0], "tokens": 2, "correct": False}]
    written = [{"output": "good", "correct": True}, {"output": "odd", "correct": False}]
    pairs = [([right, wrong], "good and bad"), (words, "right and wrong"), (written, "good and odd")]
    for (mine, theirs), shown in pairs:
        for run, other, order in ((mine, theirs, 1), (theirs, mine, -1)):
            lines = list(task_in_words("moods", "RUN", "OTHER", compare_results([known | run], [known | other])))
            sides = " and ".join(shown.split(" and ")[::order])
            better = "RUN" if order == 1 else "OTHER"
            assert lines[-2:] == [
                f"  where {better} is better by most:", f"    example 0: p0 → {sides}; right: good"]  # fmt: skip


WORDS = [*"aebdfg", "the", "dog", "cat", "man", "child", "runs", "sleeps", "sees", "near", "far", "house", "tree"]


def translations(seed: int, share: float) -> list[dict]:
    """Sixty sentences of which a share of words is not that of the reference."""
    random, others = np.random.default_rng(11), np.random.default_rng(seed)
    results = []
    for index in range(60):
        reference = random.choice(WORDS, random.integers(4, 14)).tolist()
        output = [word if others.random() > share else str(others.choice(WORDS)) for word in reference]
        results.append({"task": "translation", "index": index, "prompt": f"{index}", "reference": " ".join(reference),
                        "output": " ".join(output), "chrf": 100.0 * (output == reference)})  # fmt: skip
    return results


def test_bleu_and_chrf_are_those_of_sacrebleus_paired_bootstrap(monkeypatch):
    """With its draws (seed 12345): score, mean and half width of the other's interval, and the p-value."""
    pytest.importorskip("sacrebleu")
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    run, other = translations(1, 0.3), translations(2, 0.4)
    outputs = [[result["output"] for result in side] for side in (run, other)]
    references = [[result["reference"] for result in run]]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        test = PairedTest(list(zip(("run", "other"), outputs, strict=True)), {name: metric}, references, "bs", 400)
        _, scores = test()
        (baseline, truth), *_ = (value for key, value in scores.items() if key != "System")
        measure = measures(run, other)[name]
        sums = resampled_sums(measure.run, measure.other, resamples=400, seed=12345)
        mine, theirs = (np.concatenate([measure.metric(x) for x in parts]) for parts in zip(*sums, strict=True))
        found = compare_results(run, other)[name]
        assert (found["run"], found["other"]) == pytest.approx((baseline.score, truth.score))
        assert theirs.mean() == pytest.approx(truth.mean, abs=1e-4)
        ordered = np.sort(theirs)
        assert (ordered[-11] - ordered[10]) / 2 == pytest.approx(truth.ci, abs=1e-4)
        distances = np.abs(theirs - mine)
        counted = (distances - distances.mean() > abs(found["difference"])).sum()
        assert (counted + 1) / 401 == pytest.approx(truth.p_value, abs=1e-9)
        low, high = found["interval"]
        assert low < found["difference"] < high < 0


def test_f1_losses_and_other_ways_to_choose_are_compared_too():
    names = ["good", "bad", "odd"]
    random = np.random.default_rng(3)
    sides = []
    for _ in range(2):
        truth = np.random.default_rng(4).choice(names, 40).tolist()
        chosen = [str(random.choice(names[:2])) for _ in truth]
        written = [str(random.choice(names)) if random.random() < 0.7 else None for _ in truth]
        answers_of = zip(truth, chosen, written, strict=True)
        sides.append(
            [{"task": "moods", "index": i, "prompt": str(i), "answer": answer, "chosen": own, "written": text,
              "correct": own == answer, "chosen_per_byte": text, "scores": [-1.5 * i], "tokens": i + 1}
             for i, (answer, own, text) in enumerate(answers_of)]
        )  # fmt: skip
    found = compare_results(*sides)
    for side, results in zip(("run", "other"), sides, strict=True):
        for name, field in (("macro_f1", "chosen"), ("generation_macro_f1", "written")):
            pairs = [(result["answer"], result[field]) for result in results]
            scores = [
                2 * sum(t == c == o for t, o in pairs) / sum((t == c) + (o == c) for t, o in pairs) for c in names
            ]
            assert found[name][side] == pytest.approx(sum(scores) / 3)
        written = np.mean([result["written"] == result["answer"] for result in results])
        assert found["generation_accuracy"][side] == found["accuracy_per_byte"][side] == pytest.approx(written)
        assert found["loss"][side] == pytest.approx(1.5 * sum(range(40)) / sum(range(1, 41)))


def test_other_examples_are_refused_in_one_line(tmp_path):
    run = answers("+-+-")
    with pytest.raises(DataError, match="sums: 4 results against 3; score both on the same examples"):
        compare_results(run, run[:3])
    changed = [result | {"prompt": "another"} if result["index"] == 2 else result for result in run]
    with pytest.raises(DataError, match="sums: example 2 is not the same in both results"):
        compare_results(run, changed)
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in reversed(run)))
    assert read_results(tmp_path / "results.jsonl") == run
