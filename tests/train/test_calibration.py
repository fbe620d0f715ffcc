"""Calibration error and Brier score, against cases worked by hand and a plain loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.rows import Rows, ScoredRows
from model import config as c
from model.transformer import Transformer
from train.calibration import Calibration, TokenScores, score_tokens, token_scores


def scores_of(confidence, correct, brier=None) -> TokenScores:
    confidence, correct = (np.asarray(x, np.float32) for x in (confidence, correct))
    return TokenScores(confidence, confidence, correct, np.zeros_like(confidence) if brier is None else brier)


def test_four_tokens_by_hand():
    """Two with confidence .8, one of them right; two with .3, none right: .5 * |.5 - .8| + .5 * |0 - .3| = .3."""
    calibration = Calibration()
    calibration.add(scores_of([[0.8, 0.8], [0.3, 0.3]], [[1, 0], [0, 0]]), np.ones((2, 2)))
    found = calibration.metrics()
    assert found["ece"] == pytest.approx(0.3, abs=1e-6) and found["accuracy"] == 0.25
    assert [tokens for tokens, _, _ in found["bins"]] == [2, 2]


def test_too_sure_here_and_too_shy_there_do_not_even_out():
    """Confidences of .30 and .45 are of two bins in fifteen: .5 * |1 - .3| + .5 * |0 - .45| = .575."""
    calibration = Calibration()
    calibration.add(scores_of([[0.3, 0.45]], [[1, 0]]), np.ones((1, 2)))
    assert calibration.metrics()["ece"] == pytest.approx(0.575, abs=1e-6)


def test_what_does_not_count_is_left_out_and_the_ends_of_the_bins_are_there():
    calibration = Calibration()
    calibration.add(scores_of([[0.0, 1.0, 0.5]], [[0, 1, 0]]), np.array([[1, 1, 0]]))
    assert calibration.metrics()["bins"] == [[1, 0.0, 0.0], [1, 1.0, 1.0]] and calibration.metrics()["ece"] == 0


def test_a_model_that_draws_from_its_own_probabilities_is_calibrated():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (400, 100, 5))
    targets = (logits + random.gumbel(size=logits.shape)).argmax(-1)
    calibration = Calibration()
    calibration.add(jax.jit(token_scores)(jnp.asarray(logits, jnp.float32), targets), np.ones(targets.shape))
    assert calibration.metrics()["ece"] < 0.01
    over = Calibration()
    over.add(jax.jit(token_scores)(jnp.asarray(3 * logits, jnp.float32), targets), np.ones(targets.shape))
    assert over.metrics()["ece"] > 0.05


@pytest.mark.parametrize("chunks", [1, 2])
def test_tokens_are_scored_as_defined(chunks):
    config = c.Model(11, 16, 8, (c.Stack((c.Block(c.Attention(2, 2, 8), c.MLP(16)),), 1),), init=c.Init(embedding=1.0))
    model = Transformer(config, jax.random.key(0), c.Execution(loss_chunks=chunks))
    random = np.random.default_rng(1)
    tokens, targets = random.integers(0, 11, (2, 3, 8)).astype(np.int32)
    ones = np.ones((3, 8), np.int32)
    rows = Rows(tokens, targets, ones, np.tile(np.arange(8, dtype=np.int32), (3, 1)), ones.astype(np.float32))
    found = score_tokens(model, ScoredRows(rows, rows.weights))
    logits = np.asarray(model.logits(model.hidden(rows.tokens, rows.segments, rows.positions)), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    is_target = np.eye(11)[targets]
    np.testing.assert_allclose(found.nats, -np.log((p * is_target).sum(-1)), atol=1e-5)
    np.testing.assert_allclose(found.confidence, p.max(-1), atol=1e-5)
    np.testing.assert_array_equal(found.is_correct, p.argmax(-1) == targets)
    np.testing.assert_allclose(found.brier, np.square(p - is_target).sum(-1), atol=1e-5)
