"""What a run cost: time and where it went, arithmetic, energy with its method, CO2e, money. From RUN/card.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launch.report.html import Markup, element, table
from launch.report.json_files import Part
from launch.report.numbers import compact, duration, fixed, interval, percent, quantity, significant
from launch.report.run_files import RunFiles
from launch.report.section import Section, code, run_heading, sentence

GOODPUT = ("step", "compile", "data", "evaluation", "save", "lost", "other")
CLASSES = {"step": "c0", "compile": "c4", "data": "c5", "evaluation": "c2", "save": "c3", "lost": "c1", "other": "ink"}
KILOWATT_HOUR = 3.6e6  # joules


def cost(runs: Sequence[RunFiles]) -> Section:
    missing = sentence(
        "No card: ",
        code("skald train"),
        " writes ",
        code("card.json"),
        " as it begins, at every save and every minute.",
    )
    carded = [(number, run) for number, run in enumerate(runs) if run.card]
    if not carded:
        return Section("cost", "Cost", (), missing)
    facts = [dict(card_facts(run.card)) for _, run in carded]
    names = list(dict.fromkeys(name for own in facts for name in own))
    labels = ["", *(run.name if len(runs) > 1 else "" for _, run in carded)]
    parts = [
        part
        for number, run in carded
        if (goodput := run.card.get("goodput"))
        for part in (run_heading(run.name, number, len(runs)), goodput_bar(goodput))
    ]
    named = [
        sentence(f"{run.name}: what the whole run cost, not only up to step {run.step:,}.", class_="note")
        for _, run in carded
        if run.step is not None
    ]
    rows = [[name, *(own.get(name) for own in facts)] for name in names]
    return Section("cost", "Cost", (*named, *parts, table(labels, rows, class_="facts-table")))


def goodput_bar(goodput: Part) -> Markup:
    """The wall time in parts, in one bar; the parts with their seconds below it."""
    seconds = {name: part.number() for name in GOODPUT if (part := goodput.get(name)) and part.number() > 0}
    total = sum(seconds.values()) or 1.0
    left, bars, keys = 0.0, [], []
    for name, value in seconds.items():
        width = 100 * value / total
        words = f"{name} {duration(value)}, {percent(value / total)}"
        rect = element("rect", element("title", words), x=f"{left:.3f}%", width=f"{width:.3f}%", y="0", height="26")
        bars.append(element("g", rect, class_=f"part {CLASSES[name]}"))
        keys.append(element("span", element("i", class_=f"block {CLASSES[name]}"), words))
        left += width
    share = goodput.get("goodput")
    svg = element("svg", *bars, width="100%", height="26", role="img", aria_label="Where the time went")
    unit = (
        f"goodput {percent(share.number())}: the share of the wall time that went into steps that count"
        if share
        else ""
    )
    heading = element("figcaption", element("b", "Where the time went"), element("span", unit, class_="unit"))
    return element(
        "figure", heading, element("div", svg, class_="stack"), element("div", *keys, class_="legend always")
    )


def card_facts(card: Part) -> Iterator[tuple[str, Markup | str]]:
    """(what, value) of a card, in the order of a reader's questions; what the card does not have is left out."""
    if wall := card.get("wall_seconds"):
        yield "wall time", duration(wall.number())
    if device := card.get("device"):
        hours = significant(device["hours"].number(), 3)
        processor = f" ({device['processor'].text()})" if device.get("processor") else ""
        yield "devices", f"{device['count'].whole()} × {device['kind'].text()}{processor}, {hours} device hours"
    if tokens := card.get("tokens"):
        yield "tokens", compact(tokens.number())
    if flops := card.get("flops"):
        yield from flops_facts(flops)
    utilization = card.get("model_flops_utilization")
    yield (
        "model FLOPs utilization",
        percent(utilization.number()) if utilization else "not known: the devices' peak is not",
    )
    yield from energy_facts(card)
    if (money := card.get("money")) and money.get("amount"):
        price = money.get("chip_hour")
        of = f", at {significant(price.number())} an hour of a chip" if price else ""
        yield "money", f"{fixed(money['amount'].number(), 2)}{of}"
    if attempts := card.get("attempts"):
        ends = [part["ended"].text() for part in attempts.list()]
        yield "attempts", f"{len(ends):,}: {', '.join(ends)}"
    if (lost := card.get("lost_steps")) and lost.whole():
        yield "steps that were lost", f"{lost.whole():,}"
    if unknown := card.get("unknown"):
        lines = [element("div", line.text()) for line in unknown.list()]
        yield "not known", element("span", *lines)


def flops_facts(flops: Part) -> Iterator[tuple[str, str]]:
    yield "FLOPs by 6ND", quantity(flops["formula"].number(), "FLOP")
    if counted := flops.get("counted"):
        yield "FLOPs with attention", quantity(counted.number(), "FLOP")
    compiled = flops.get("compiled")
    yield "FLOPs as compiled", quantity(compiled.number(), "FLOP") if compiled else "not known"


def energy_facts(card: Part) -> Iterator[tuple[str, Markup | str]]:
    """Energy is said with how it is known; what was not measured is said to be so, never 0."""
    if energy := card.get("energy"):
        method = energy["method"].text()
        joules, about = energy.get("joules"), energy.get("about")
        words = f"{energy_words(joules.number())}, {method}" if joules and method != "unmeasured" else "unmeasured"
        yield "energy", words + (f" ({about.text()})" if about and about.text() else "")
    per_token, generation = card.get("joules_per_generated_token"), card.get("generation")
    method = f", {generation['method'].text()}" if generation else ""
    yield "energy of a generated token", f"{quantity(per_token.number(), 'J')}{method}" if per_token else "unmeasured"
    if range_ := card.get("co2e_grams"):
        yield "CO₂e", co2e_words(range_.range(), card)
    elif card.get("energy"):
        yield "CO₂e", "not known without the energy" if not card["energy"].get("joules") else "not known"


def energy_words(joules: float) -> str:
    return f"{quantity(joules, 'J')} ({quantity(joules / KILOWATT_HOUR * 1000, 'Wh')})"


def co2e_words(low_high: tuple[float, float], card: Part) -> str:
    """A range, with what it is computed from."""
    low, high = low_high
    kilograms = high >= 1000
    words = f"{interval((low / 1000, high / 1000), 2)} kg" if kilograms else f"{interval((low, high), 2)} g"
    because = []
    if grid := card.get("grid"):
        source = ", ".join(str(part.value) for name in ("source", "year") if (part := grid.get(name)))
        because.append(f"{interval(grid['g_per_kwh'].range())} g/kWh ({source})")
    if pue := card.get("pue"):
        because.append(f"PUE {significant(pue['value'].number())} ({pue['source'].text()}, {pue['year'].whole()})")
    return f"{words}: {', '.join(because)}" if because else words
