"""`skald evaluate` and the Python surface, against a sum over the logits in float64 NumPy."""

import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data.errors import DataError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def run(trained):
    from launch.api import load

    return load(f"{trained}@best")


@pytest.fixture(scope="module", autouse=True)
def cache(skald):
    """The store that training made: launch.api in this process reads it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])
        yield


def nats(run, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """(sum, tokens) of -log p by a loop over windows written here: each target once, in the first window with it."""
    total, counted = 0.0, 0
    for start in range(0, len(ids) - 1, stride):
        piece = ids[start : start + window + 1]
        if counted >= start + len(piece) - 1:
            continue
        logits_TV = np.asarray(run.logits([piece[:-1]])[0], np.float64)
        losses_T = np.log(np.exp(logits_TV - logits_TV.max(-1, keepdims=True)).sum(-1)) + logits_TV.max(-1)
        losses_T = losses_T - logits_TV[np.arange(len(piece) - 1), piece[1:]]
        new = start + len(piece) - 1 - counted
        total, counted = total + losses_T[-new:].sum(), counted + new
    return total, counted


@pytest.mark.parametrize("window, stride", [(32, 32), (32, 8), (17, 5)])
def test_a_text_files_score_is_the_sum_over_its_windows(skald, run, trained, tmp_path, window, stride):
    text = "First Citizen:\nWe are accounted poor citizens, the patricians good.\nWhat authority surfeits on"
    (tmp_path / "text.txt").write_text(text)
    asked = ["--text", tmp_path / "text.txt", "--window", window, "--stride", stride]
    found = skald.json("evaluate", trained, *asked)
    total, tokens = nats(run, run.tokenizer.encode(text), window, stride)
    assert tokens == len(text) - 1 == found["tokens"] == found["bytes"], "the first character is predicted from nothing"
    assert found["loss"] == pytest.approx(total / tokens, abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / tokens, rel=1e-5)
    assert (found["window"], found["stride"], found["tasks"]) == (window, stride, {})
    assert run.evaluate(str(tmp_path / "text.txt"), window, stride)["loss"] == pytest.approx(found["loss"], abs=1e-6)


def test_the_whole_validation_split_is_scored_and_equals_trainings_own_figure(fresh, trained):
    found = fresh.json("evaluate", trained)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert found["loss"] == pytest.approx(lines[-1]["eval/loss"], abs=1e-5)
    size = int(1_115_394 * 0.1) - int(1_115_394 * 0.09)
    assert (found["tokens"], found["bytes"], found["window"], found["stride"]) == (size - 1, size - 1, 32, 32)
    status, out, _ = fresh("evaluate", trained)
    assert status == 0 and f"{found['loss']:.4f} nats a token" in out and "window 32, stride 32" in out


def test_the_python_surface(run, trained):
    assert run.step == 40 and run.config.model.width == 32
    tokens = np.arange(40).reshape(2, 20)
    logits_BTV = run.logits(tokens)
    assert logits_BTV.shape == (2, 20, 65) and logits_BTV.dtype == np.float32
    hidden = jax.jit(lambda model, x: model.hidden(x))(run.model, tokens.astype(np.int32))
    np.testing.assert_allclose(logits_BTV, np.asarray(hidden) @ np.asarray(run.model.embedding.table[...]).T, atol=1e-4)
    samples = run.generate("ROMEO:", sampler="top_k=5", max_new_tokens=10, seed=2, num_samples=2)
    assert [sample["prompt"] for sample in samples] == ["ROMEO:"] * 2
    assert samples == run.generate("ROMEO:", sampler="top_k=5", max_new_tokens=10, seed=2, num_samples=2)


@pytest.mark.parametrize("name, content", [("one.txt", "a"), ("none.jsonl", ""), ("ones.jsonl", '{"text": "a"}\n' * 3)])
def test_a_text_without_a_token_to_predict_is_refused(run, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: nothing to score"):
        run.evaluate(str(tmp_path / name))
    with pytest.raises(DataError, match="path is empty"):
        run.evaluate("")


def test_another_validation_text_than_the_runs_is_refused(run):
    from launch.evaluate import validation_documents

    about = json.loads(json.dumps(run.about))
    about["data"]["validation"]["source"] = "0" * 64  # what a text that has changed since then looks like
    stale = SimpleNamespace(config=run.config, tokenizer=run.tokenizer, name="old", about=about)
    with pytest.raises(DataError, match=r"embedded:shakespeare: not the validation text that old was.*--text FILE"):
        validation_documents(stale)
