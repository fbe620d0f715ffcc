"""Loss, learning rate, gradient norm, throughput and distance from human text over the tokens of training."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element, table
from launch.report.line_chart import Curve, line_chart, thinned_note
from launch.report.numbers import COUNT_UNITS, UNITS, compact, significant
from launch.report.run_files import RunFiles
from launch.report.section import Section, code, colour, sentence
from train.checkpoint_folder import RANKED_BY
from train.config import LikelihoodLoss

TABLE_ROWS = 24
DISTANCE = RANKED_BY["human"]
SMALL = 150  # pixels of height
FIGURES = {
    "rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens/s",
    "train/loss": "training loss",
    "eval/loss": "validation loss",
    "eval/bits_per_byte": "bits a byte",
    DISTANCE: "distance from human text",
}


def curves(runs: Sequence[RunFiles]) -> Section:
    trained = [run for run in runs if run.metrics]
    missing = sentence("No step is measured yet: ", code("metrics.jsonl"), " is written by ", code("skald train"), ".")
    if not trained:
        return Section("curves", "Curves", (), missing)
    losses = loss_curves(runs)
    parts = [
        line_chart("Loss", loss_unit(trained), losses, 300),
        sentence(thinned_note(losses), class_="note") if thinned_note(losses) else None,
        element("div", *small_charts(runs, losses), class_="small"),
        element(
            "details",
            element("summary", "The figures as a table"),
            *(figures_table(run) for run in trained),
        ),
    ]
    return Section("curves", "Curves", tuple(parts))


def loss_unit(runs: Sequence[RunFiles]) -> str:
    likelihoods = all(run.experiment and isinstance(run.experiment.objective, LikelihoodLoss) for run in runs)
    return "nats a token, over tokens trained" if likelihoods else "over tokens trained"


def loss_curves(runs: Sequence[RunFiles]) -> list[Curve]:
    found = []
    for number, run in enumerate(runs):
        prefix = f"{run.name} " if len(runs) > 1 else ""
        training = "ink" if len(runs) == 1 else colour(number)
        found.append(Curve(f"{prefix}training", *run.series("train/loss"), training, light=True))
        found.append(Curve(f"{prefix}validation", *run.series("eval/loss"), colour(number)))
    return found


def small_charts(runs: Sequence[RunFiles], losses: Sequence[Curve]) -> list[Markup | None]:
    def of(metric: str) -> list[Curve]:
        return [Curve(run.name, *run.series(metric), colour(number)) for number, run in enumerate(runs)]

    late = [late_half(curve) for curve in losses if curve.xs]
    return [
        line_chart("Loss, second half", "its own scale", late, SMALL, clips=True),
        line_chart("Learning rate", "", of("rate"), SMALL, from_zero=True),
        line_chart("Gradient norm", "before clipping", of("grad_norm"), SMALL, from_zero=True),
        line_chart("Throughput", "tokens a second", of("tokens_per_second"), SMALL, from_zero=True, units=UNITS),
        line_chart("Distance from human text", "0 is human text", of(DISTANCE), SMALL, from_zero=True),
    ]


def late_half(curve: Curve) -> Curve:
    """The part of a curve over the second half of its tokens."""
    kept = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if x >= curve.xs[-1] / 2]
    return Curve(curve.label, [x for x, _ in kept], [y for _, y in kept], curve.colour, curve.light)


def figures_table(run: RunFiles) -> Markup:
    """Some lines of metrics.jsonl: the first, the last, those with a validation loss, and others between them."""
    scored = [n for n, line in enumerate(run.metrics) if line.get("eval/loss")]
    last = len(run.metrics) - 1
    even = [round(n * last / (TABLE_ROWS - 1)) for n in range(TABLE_ROWS)] if last else [0]
    chosen = sorted({0, last, *(scored if len(scored) >= TABLE_ROWS // 2 else (*scored, *even))})
    if len(chosen) > 2 * TABLE_ROWS:
        chosen = sorted({chosen[round(n * (len(chosen) - 1) / (2 * TABLE_ROWS - 1))] for n in range(2 * TABLE_ROWS)})
    names = [name for name in FIGURES if any(run.metrics[n].get(name) for n in chosen)]
    rows = [
        [
            f"{run.metrics[n]['step'].whole():,}",
            compact(run.metrics[n]["tokens"].number(), 4, COUNT_UNITS),
            *(significant(v.number()) if (v := run.metrics[n].get(name)) else None for name in names),
        ]
        for n in chosen
    ]
    heading = element("p", f"{run.name}: {len(chosen)} of {len(run.metrics):,} steps", class_="note")
    body = table(["step", "tokens", *(FIGURES[name] for name in names)], rows, class_="numbers")
    return element("div", heading, body)
