"""Preference tuning: direct preference optimization (DPO, Rafailov et al. 2023) on pairs of responses to a prompt.

A run of it starts from another's weights, which stay as its reference model (TrainState.frozen), or from adapters'
base, which is one already. A config is any experiment with another objective, data and rate:

    def default() -> Experiment:
        base = books.default()
        source = Source("pairs.jsonl", field="chosen", prompt="prompt", rejected="rejected")
        data = replace(base.data, source=source, packing="pairs")
        optimizer = Optimizer(peak_rate=5e-6, rule=AdamW(weight_decay=0.0))
        return replace(base, objective=DPO(beta=0.1), data=data, optimizer=optimizer)

    skald train preferences.py --from runs/sft

`skald evaluate` of such a run scores the chosen responses of its validation pairs as texts.

Metrics have the names that TRL gives them, behind train/ and eval/. Of the chosen and the rejected responses there are
`rewards/…`, beta times the log-probability that a response has gained over the reference, and `logps/…`, the
log-probability itself, in nats; `rewards/margins` is the difference of both rewards, `rewards/accuracies` the share of
pairs where it is above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data.documents import Documents
from data.pairs import pair_rows
from data.rows import Rows
from model.sharding import partition_of, reshape
from model.transformer import Transformer
from train import loss
from train.config import DPO

METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def sigmoid_loss(margin: jax.Array, config: DPO) -> jax.Array:
    """-log sigma(beta * margin) (Rafailov et al. 2023, eq. 7), of labels that are wrong in a share `label_smoothing` of
    all pairs (Mitchell 2023, eq. 3)."""
    right, wrong = jax.nn.log_sigmoid(config.beta * margin), jax.nn.log_sigmoid(-config.beta * margin)
    return -(1 - config.label_smoothing) * right - config.label_smoothing * wrong


def ipo_loss(margin: jax.Array, config: DPO) -> jax.Array:
    """The square of what the margin lacks of 1 / (2 beta) (Azar et al. 2023, eq. 17)."""
    return jnp.square(margin - 1 / (2 * config.beta))


LOSSES: dict[str, Callable[[jax.Array, DPO], jax.Array]] = {"sigmoid": sigmoid_loss, "ipo": ipo_loss}


class PreferenceLoss:
    """The Objective of a DPO config, over rows of which 2i and 2i + 1 are the chosen and the rejected half of a pair.

    Sums are over pairs. Pairs of which no token counts, as in rows that fill up a batch, are left out. Dropout is off,
    so that the margin is exactly 0 at the start.
    """

    keeps_reference, metrics = True, METRICS

    def __init__(self, config: DPO):
        self.config = config

    def sum_losses(
        self, model: Transformer, reference: Transformer, rows: Rows, key: jax.Array | None = None
    ) -> loss.TrainingSums:
        del key
        logps_P2, auxiliary_P2 = self.log_probabilities(model, rows)
        reference_P2, _ = self.log_probabilities(reference, rows)
        log_ratio_P2 = logps_P2 - jax.lax.stop_gradient(reference_P2)
        margin_P, reward_P2 = log_ratio_P2[:, 0] - log_ratio_P2[:, 1], self.config.beta * log_ratio_P2
        values = (
            *reward_P2.T, (margin_P > 0) * 1.0, self.config.beta * margin_P, *logps_P2.T,
        )  # fmt: skip
        counts_P = (pairs(rows.weights.sum(-1)).sum(-1) > 0) * 1.0
        return loss.TrainingSums(
            (LOSSES[self.config.loss](margin_P, self.config) * counts_P).sum(),
            counts_P.sum(),
            (auxiliary_P2.mean(-1) * counts_P).sum(),
            {name: (value_P * counts_P).sum() for name, value_P in zip(METRICS, values, strict=True)},
        )

    def log_probabilities(self, model: Transformer, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """log p(response | prompt) in nats of both halves of each pair, or its mean a token, and auxiliary losses: rows
        [B, T] -> float32 [P, 2] twice, with 2 P = B."""
        stream = model.residual_stream(rows.tokens, rows.segments, rows.positions)
        losses_BT, _ = loss.chunked_losses(model, stream.x_BTD, rows.targets)
        logps_B = -(losses_BT * rows.weights).sum(-1)
        if self.config.normalize_length:
            logps_B /= jnp.maximum(rows.weights.sum(-1), 1)
        return pairs(logps_B), pairs(stream.auxiliary_loss_B)

    def batches(self, documents: Documents, length: int, batch_size: int) -> Iterator[Rows]:
        return pair_rows(documents, length, batch_size)

    def batch_sums(self, model: Transformer, reference: Transformer, batch: Rows) -> loss.TrainingSums:
        return self.sum_losses(model, reference, batch)

    def scores(self, sums: Iterable[loss.TrainingSums], text_bytes: int) -> dict[str, float]:
        """Means over pairs: the loss without the added terms, in nats, and METRICS."""
        del text_bytes
        total = jax.tree.map(lambda *values: float(np.sum(values, dtype=np.float64)), *sums)
        return {name: value / total.weight for name, value in ({"loss": total.loss} | total.metrics).items()}

    def describe(self, values: dict[str, float]) -> str:
        return (
            f"loss {values['eval/loss']:.4f} nats a pair, {values['eval/rewards/accuracies']:.1%} of pairs ranked "
            f"right, reward margin {values['eval/rewards/margins']:.4f}"
        )


def pairs(x_B: jax.Array) -> jax.Array:
    """A number for each row as one for each half of each pair: [B] -> [P, 2]."""
    return reshape(x_B, (x_B.shape[0] // 2, 2), (*partition_of(x_B), None))
