"""What the page is about: each run with its config, size, tokens and scores; several beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element, table
from launch.report.numbers import compact, date, duration, fixed
from launch.report.run_files import RunFiles
from launch.report.section import colour
from train.config import LikelihoodLoss


def head(runs: Sequence[RunFiles]) -> Markup:
    """The title, and under it the facts: a list for one run, a table for several."""
    facts = [dict(run_facts(run)) for run in runs]
    names = list(dict.fromkeys(name for own in facts for name in own))
    if len(runs) == 1:
        pairs = [element("div", element("dt", name), element("dd", facts[0][name])) for name in names]
        return element("header", element("h1", runs[0].name), element("dl", *pairs, class_="facts"))
    labels = [element("span", element("i", class_=f"swatch {colour(n)}"), run.name) for n, run in enumerate(runs)]
    rows = [[name, *(own.get(name) for own in facts)] for name in names]
    title = f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    return element("header", element("h1", title), table(["", *labels], rows, class_="facts-table"))


def run_facts(run: RunFiles) -> list[tuple[str, str]]:
    """(what, value) of what is known of a run."""
    facts = []
    if run.experiment:
        facts.append(("config", run.experiment.name))
    if run.parameters is not None:
        facts.append(("parameters", compact(run.parameters)))
    if run.metrics:
        facts += progress_facts(run)
    facts += loss_facts(run)
    if run.card and (wall := run.card.get("wall_seconds")):
        facts.append(("wall time", duration(wall.number()) + (" (of the whole run)" if run.step is not None else "")))
    if run.checkpoint and run.checkpoint.get("saved"):
        facts.append(("saved", date(run.checkpoint["saved"])))
    if run.version:
        facts.append(("Skald", run.version))
    return facts


def progress_facts(run: RunFiles) -> list[tuple[str, str]]:
    step = run.metrics[-1]["step"].whole()
    of = f" of {run.experiment.steps:,}" if run.experiment and run.experiment.steps != step else ""
    return [("tokens", compact(run.metrics[-1]["tokens"].number())), ("steps", f"{step:,}{of}")]


def loss_facts(run: RunFiles) -> list[tuple[str, str]]:
    """The last validation loss with the best one where that is another, and bits a byte."""
    saved = (run.checkpoint or {}).get("scores") or {}
    last, best = run.final("eval/loss"), run.best("eval/loss")
    last = saved.get("eval/loss") if last is None else last
    bits = run.final("eval/bits_per_byte")
    bits = saved.get("eval/bits_per_byte") if bits is None else bits
    facts = []
    if last is not None:
        nats = " nats a token" if run.experiment and isinstance(run.experiment.objective, LikelihoodLoss) else ""
        better = f" (best {fixed(best, 3)})" if best is not None and best < last else ""
        facts.append(("validation loss", f"{fixed(last, 3)}{nats}{better}"))
    elif (loss := run.final("train/loss")) is not None:
        facts.append(("training loss", fixed(loss, 3)))
    if bits is not None:
        facts.append(("bits a byte", fixed(bits, 3)))
    return facts
