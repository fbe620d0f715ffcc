"""What `skald quality` prints to a person: a table of settings, the frontier as a chart, what is recommended, the cost.
Eighty columns are enough."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from launch.quality.chart import Axis, Point, draw_chart
from launch.quality.grid import HUMAN

NAME_WIDTH = 28
COLUMNS = {  # of the table, with their formats
    "distance": ("dist", ".2f"),
    "perplexity": ("ppl", ".4g"),
    "judge_bits_per_byte": ("judge", ".3f"),
    "prompt_ratio": ("fit", ".2f"),
    "mauve": ("MAUVE", ".2f"),
    "self_bleu": ("sBLEU", ".3f"),
    "seq_rep_4": ("rep-4", ".1%"),
    "loop_rate": ("loops", ".1%"),
    "new_8_grams": ("new-8", ".0%"),
    "toxicity_rate": ("toxic", ".1%"),
}
ABOUT = {
    "distance": "from human text, 1 where its interval ends",
    "perplexity": "perplexity under the model itself",
    "judge_bits_per_byte": "bits a byte under the second model",
    "prompt_ratio": "nats a token that the right prompt makes a text likelier",
    "mauve": "over the model's own features, comparable with that of no other",
    "self_bleu": "self-BLEU",
    "seq_rep_4": "repeated 4-grams",
    "loop_rate": "texts that end in one",
    "new_8_grams": "8-grams that are not in training",
    "toxicity_rate": "texts with a word of the list",
}
WIDTH = 80
MAUVE_TEXTS = 500  # the paper's figures are of 5,000


def quality_in_words(name: str, result: dict) -> str:
    """The content of quality.json as lines for a person."""
    order = table_order(result)
    columns, rows = table(result, order)
    lines = [*head(name, result), "", *rows, "", *legend(result, columns)]
    if len(result["settings"]) > 2:
        lines += ["", *chart(result, order)]
    return "\n".join([*lines, "", *conclusion(result)])


def head(name: str, result: dict) -> list[str]:
    prompts = result["prompts"]
    return wrapped(
        f"{name} at step {result['step']}: {len(result['settings']) - 1} settings, {prompts['count']} prompts of "
        f"{prompts['prompt_tokens']} tokens from {prompts['source']}, "
        f"each continued for {prompts['new_tokens']}; diversity is of {result['compared']['texts']} texts of "
        f"{result['compared']['tokens']} tokens a setting"
    )


def table_order(result: dict) -> list[int]:
    """The numbers of settings as the table lists them: human text, then from the nearest to it to the farthest."""
    settings = result["settings"]

    def key(number: int) -> tuple:
        distance = settings[number]["distance"]
        return settings[number]["setting"] != HUMAN, distance is None, distance or 0.0

    return sorted(range(len(settings)), key=key)


def label(order: Sequence[int], number: int, result: dict) -> str:
    """What stands for a setting in the table and on the chart: H for human text, else its row."""
    return "H" if result["settings"][number]["setting"] == HUMAN else str(order.index(number))


def table(result: dict, order: Sequence[int]) -> tuple[list[str], list[str]]:
    """The columns, as many as fit, and a row for each setting."""
    settings = result["settings"]
    used = {name for one in settings for name in one["metrics"]} | {"distance"}
    columns = [name for name in COLUMNS if name in used]
    rows = [["", "setting", *(COLUMNS[name][0] for name in columns)]]
    for number in order:
        one = settings[number]
        star = "*" if number in result["frontier"] else " "
        values = {name: found["value"] for name, found in one["metrics"].items()} | {"distance": one["distance"]}
        cells = [cell(values.get(name), COLUMNS[name][1]) for name in columns]
        rows.append([label(order, number, result) + star, setting_name(one["setting"]), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    while sum(widths) + len(widths) - 1 > WIDTH and len(columns) > 3:
        columns.pop()
        widths.pop()
        rows = [row[:-1] for row in rows]
    lines = [
        " ".join(
            text.rjust(width) if column != 1 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return columns, lines


def cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def setting_name(chain: str) -> str:
    """A chain in so many characters."""
    name = chain or "the model as it is"
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def legend(result: dict, columns: Sequence[str]) -> list[str]:
    """What the columns mean."""
    parts = [f"{COLUMNS[name][0]}: {ABOUT[name]}" for name in columns]
    if "mauve" in columns and result["prompts"]["count"] < MAUVE_TEXTS:
        parts[columns.index("mauve")] += f"; of fewer than {MAUVE_TEXTS} texts it is little more than noise"
    return wrapped("; ".join([*parts, "H: human text; *: on the front"]))


def chart(result: dict, order: Sequence[int]) -> list[str]:
    """The frontier, human text on it as H."""
    quality, diversity = result["axes"]["quality"], result["axes"]["diversity"]
    points = []
    for number in reversed(order):
        metrics = result["settings"][number]["metrics"]
        x, y = (metrics.get(name, {}).get("value") for name in (diversity, quality))
        if x is not None and y is not None:
            points.append(Point(label(order, number, result), x, y, number in result["frontier"]))
    points.reverse()
    titles = {name: result["measures"][name]["title"] for name in (quality, diversity) if name in result["measures"]}
    if len(titles) < 2:
        return []
    x_axis = Axis(f"{titles[diversity]}: alike <-> diverse", lower_is_better=True)
    y_axis = Axis(f"{titles[quality]} (log scale), likelier upwards", lower_is_better=True, log=True)
    return draw_chart(points, x_axis, y_axis, WIDTH)


def conclusion(result: dict) -> list[str]:
    """What is recommended, how the default sampler stands, and what all of it cost."""
    lines, gate, cost = [], result["gate"], result["cost"]
    if found := result["recommended"]:
        lines += wrapped(
            f"recommended: {setting_name(found['setting'])} at distance {found['distance']:.2f}: {found['why']}"
        )
    if gate is not None:
        default = result["default"] or "the model as it is"
        lines += wrapped(f"the default sampler, {default}, {verdict(gate)} (distance {gate['distance']:.2f})")
    for found in (novelty_words(result), toxicity_words(result), crows_words(result), memory_words(result)):
        lines += found
    passes = "; ".join(
        f"{name} {one['tokens']:,} tokens, {one['seconds']:.1f} s" for name, one in cost["model_passes"].items()
    )
    lines += wrapped(
        f"cost: writing {cost['generated_tokens']:,} tokens, {cost['generation_seconds']:.1f} s; scoring without a "
        f"model {cost['scoring_seconds']:.1f} s; passes of models: {passes}"
    )
    return lines


def novelty_words(result: dict) -> list[str]:
    """What the columns of novelty do not know of, if there is something."""
    return wrapped(f"novelty: {result['untraced']}") if result["untraced"] else []


def verdict(gate: dict) -> str:
    outside = [name for name, one in gate["measures"].items() if not one["inside"]]
    if gate["too_short"]:
        return f"ends too early to be compared with human text of {gate['human_tokens']} tokens"
    return f"leaves human text in {', '.join(outside)}" if outside else "is within what human text spans"


def toxicity_words(result: dict) -> list[str]:
    """The rates of the settings that a reader looks for."""
    rates = {one["setting"]: one["metrics"]["toxicity_rate"]["value"] for one in result["settings"]}
    recommended = result["recommended"] and result["recommended"]["setting"]
    names = {HUMAN: "people", recommended: "recommended", result["default"]: "default"}
    shown = [f"{title} {cell(rates[name], '.1%')}" for name, title in names.items() if name in rates]
    return wrapped(f"texts with a word of the list of {result['risk']['toxicity']['words']}: {', '.join(shown)}")


def crows_words(result: dict) -> list[str]:
    found = result["risk"]["crows_pairs"]
    if not found:
        return []
    low, high = found["interval"]
    return wrapped(
        f"CrowS-Pairs: of {found['pairs']:,} pairs the more stereotyping sentence is the likelier one in "
        f"{found['score']:.1%} ({low:.1%} to {high:.1%}), by means over tokens in {found['per_token']['score']:.1%}; "
        "50% is no preference"
    )


def memory_words(result: dict) -> list[str]:
    found = result["memorization"]
    if not found:
        return []
    shares = [f"{one['extracted']} of {one['texts']} behind {one['prompt_tokens']}" for one in found["random"]]
    often = [one for one in found["by_times_seen"] if one["seen"][0] >= 2]
    seen = f"; of those that were read twice and more {sum(one['extracted'] for one in often)} of " if often else ""
    seen += f"{sum(one['texts'] for one in often)}" if often else ""
    return wrapped(
        f"memorized: the next {found['suffix_tokens']} tokens of random passages of training, word for word, in "
        f"{', '.join(shares)} tokens of prompt{seen}"
    )


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)
