"""How well a model's probabilities of the next token agree with what comes: token by token, added up on the host.
launch/inference/scoring.py uses it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.rows import ScoredRows
from model.layers import at_least_float32
from model.transformer import Transformer
from train import loss

BINS = 15  # Guo et al. 2017


class TokenScores(NamedTuple):
    """Of every target, float32 [B, T]: its loss in nats; the probability of the most likely token; whether that is the
    target; its Brier score, the sum over the vocabulary of (p - [token is target])^2, from 0 to 2 (Brier 1950)."""

    nats: jax.Array
    confidence: jax.Array
    is_correct: jax.Array
    brier: jax.Array


def token_scores(logits_BTV: jax.Array, targets_BT: jax.Array) -> TokenScores:
    logits_BTV = at_least_float32(logits_BTV)
    nats_BT, logsumexp_BT = loss.token_losses(logits_BTV, targets_BT)
    p_BTV, greatest_BT = jnp.exp(logits_BTV - logsumexp_BT[..., None]), logits_BTV.max(-1)
    is_target = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    is_correct_BT = jnp.where(is_target, logits_BTV, 0).sum(-1) == greatest_BT
    brier_BT = jnp.square(p_BTV - is_target).sum(-1)
    return TokenScores(nats_BT, jnp.exp(greatest_BT - logsumexp_BT), is_correct_BT.astype(jnp.float32), brier_BT)


@jax.jit
def score_tokens(model: Transformer, batch: ScoredRows) -> TokenScores:
    """The scores of every target of rows [B, T], in `time_order`."""
    rows = batch.rows
    hidden_BTD = model.hidden(rows.tokens, rows.segments, rows.positions)
    return loss.chunked_losses(model, hidden_BTD, rows.targets, token_scores)


class Calibration:
    """Sums over targets, by the confidence of their prediction: bin i has those in (i / BINS, (i + 1) / BINS]."""

    def __init__(self):
        self.tokens, self.confidence, self.correct = np.zeros((3, BINS))
        self.brier_sum = 0.0

    def add(self, scores: TokenScores, counts_BT: np.ndarray) -> None:
        """Adds the targets where `counts_BT` is not 0."""
        _, confidence, correct, brier = (np.asarray(x, np.float64)[counts_BT > 0] for x in scores)
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS).astype(int) - 1, 0, BINS - 1)
        self.tokens += np.bincount(bins, minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)
        self.correct += np.bincount(bins, correct, BINS)
        self.brier_sum += brier.sum()

    def metrics(self) -> dict:
        """`accuracy`: the share of targets that are the most likely token. `ece`: the expected calibration error, the
        mean distance of accuracy and confidence in the bins, weighted by their tokens (Guo et al. 2017, eq. 3).
        `brier`: the mean Brier score. `bins`: of those that have tokens, [tokens, mean confidence, accuracy]."""
        total, filled = self.tokens.sum(), self.tokens > 0
        table = np.stack([self.tokens, self.confidence, self.correct], axis=1)[filled]
        table[:, 1:] /= table[:, :1]
        return {
            "accuracy": self.correct.sum() / total,
            "ece": np.abs(self.correct - self.confidence).sum() / total,
            "brier": self.brier_sum / total,
            "bins": [[int(tokens), confidence, accuracy] for tokens, confidence, accuracy in table.tolist()],
        }
