"""What a run wrote at each of its evaluations. A script shows them one at a time; without it all are there."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element
from launch.report.numbers import significant
from launch.report.run_files import RunFiles, Sample
from launch.report.section import Section, code, run_heading, sentence

MOST = 60  # of a run, evenly over its steps, the first and the last among them
LONGEST = 2500  # characters of one


def samples(runs: Sequence[RunFiles]) -> Section:
    missing = sentence(
        "No text was written in training: ",
        code("evaluation.samples"),
        " of the config is how many are at each evaluation.",
    )
    parts = [part for number, run in enumerate(runs) if run.samples for part in of_run(run, number, len(runs))]
    return Section("samples", "Samples through time", tuple(parts), missing)


def of_run(run: RunFiles, number: int, runs: int) -> list[Markup | None]:
    shown = choose(run.samples)
    losses = {line["step"].whole(): loss.number() for line in run.metrics if (loss := line.get("eval/loss"))}
    note = (
        [f"Written after the prompt {run.experiment.evaluation.prompt!r} by {run.experiment.evaluation.sampler}."]
        if run.experiment
        else []
    )
    if len(shown) < len(run.samples):
        note.append(f"{len(shown)} of {len(run.samples)}, evenly over the steps.")
    articles = [article(sample, losses.get(sample.step)) for sample in shown]
    return [
        run_heading(run.name, number, runs),
        sentence(" ".join(note), class_="note") if note else None,
        element("div", *articles, class_="stepper", data_label=f"samples of {run.name}"),
    ]


def choose(found: Sequence[Sample], limit: int = MOST) -> list[Sample]:
    if len(found) <= limit:
        return list(found)
    return [found[round(n * (len(found) - 1) / (limit - 1))] for n in range(limit)]


def article(sample: Sample, loss: float | None) -> Markup:
    text = sample.text.strip("\n")
    cut = f"{text[:LONGEST]}…" if len(text) > LONGEST else text
    loss_text = element("span", f"validation loss {significant(loss)}", class_="unit") if loss is not None else None
    heading = element("h4", f"step {sample.step:,} ", loss_text)
    return element("article", heading, element("pre", cut, class_="text"))
