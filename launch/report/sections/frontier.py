"""Quality against diversity of every sampler, the texts behind the dots, and the table of all measures."""

from __future__ import annotations

from collections.abc import Sequence

from launch.report.html import Markup, element, join
from launch.report.numbers import compact, duration
from launch.report.origin import origin
from launch.report.quality import GROUPS, HUMAN, Measure, Quality, Setting
from launch.report.run_files import RunFiles
from launch.report.scatter import make_scales, points_of, scatter
from launch.report.section import Section, code, run_heading, sentence

LONGEST = 900  # characters of an example
EXAMPLES = 2  # of a setting
WIDE = 9  # columns from which a table has a printed page across


def frontier(runs: Sequence[RunFiles]) -> Section:
    """A chart for each run, all with the same scales where they show the same measures."""
    qualities = [run.quality for run in runs]
    missing = sentence("Not measured yet: ", code(f"skald quality {runs[0].folder}"), " writes and scores texts.")
    points = [point for quality in qualities if quality for point in points_of(quality)]
    axes = {tuple(measure.name for measure in quality.axes) for quality in qualities if quality}
    shared = make_scales(points) if points and len(axes) == 1 else None
    parts: list[Markup | None] = []
    for number, (run, quality) in enumerate(zip(runs, qualities, strict=True)):
        if quality:
            own = shared or make_scales(points_of(quality)) if points_of(quality) else None
            parts += of_run(run, number, len(runs), quality, own)
    return Section("frontier", "Quality and diversity", tuple(parts), missing)


def of_run(run: RunFiles, number: int, runs: int, quality: Quality, scales) -> list[Markup | None]:
    prefix = f"setting-{number}"
    chosen = recommended_of(quality) or quality[HUMAN]
    shown = chosen or (quality.settings[0] if quality.settings else None)
    panel = element("div", *(setting_parts(shown, quality) if shown else ()), class_="panel", aria_live="polite")
    return [
        run_heading(run.name, number, runs),
        sentence(*introduction(run, quality)),
        element("div", scatter(quality, *scales, prefix), panel, class_="beside") if scales else None,
        measures_table(quality),
        measures_list(quality),
        element("details", element("summary", "Every setting with its measures and texts"), *articles(quality, prefix)),
    ]


def introduction(run: RunFiles, quality: Quality) -> list[Markup | str]:
    """How the texts were made, what is recommended, and what it cost."""
    parts: list[Markup | str] = [prompts_words(quality)]
    if recommended := recommended_of(quality):
        why = f": {quality.why}" if quality.why else ""
        parts += [" Recommended: ", code(recommended.label), f"{why}."]
    parts += [f" {words}" for words in origin(quality.file, run.folder)]
    others = [step for step in run.quality_steps if step != quality.step]
    if others:
        steps = ", ".join(f"{step:,}" for step in others)
        parts += [
            f" Measured at step {quality.step:,}; also at {steps}: ",
            code(f"skald report {run.folder}@STEP"),
            ".",
        ]
    return parts


def recommended_of(quality: Quality) -> Setting | None:
    return None if quality.recommended is None else quality[quality.recommended]


def prompts_words(quality: Quality) -> str:
    texts = sum(1 for setting in quality.settings if not setting.is_human)
    prompts, cost = quality.file.get("prompts"), quality.file.get("cost")
    words = f"{texts} samplers and what people wrote"
    if prompts:
        count, length, new = (prompts[name].whole() for name in ("count", "prompt_tokens", "new_tokens"))
        words += f", each behind the same {count} prompts of {length} tokens, up to {new} tokens of text"
        if source := prompts.get("source"):
            words += f" ({source.text() if isinstance(source.value, str) else source.file})"
    words += ". Bars and small print are 95% intervals."
    if compared := quality.file.get("compared"):
        count, length = compared["texts"].whole(), compared["tokens"].whole()
        words += f" Diversity is measured over {count} texts of {length} tokens of each."
    if cost:
        written, scored = cost["generation_seconds"].number(), cost["scoring_seconds"].number()
        tokens = compact(cost["generated_tokens"].number())
        words += f" {tokens} tokens were written in {duration(written)} and scored in {duration(scored)}."
    return words


def setting_parts(setting: Setting, quality: Quality) -> list[Markup]:
    """The name, the two measures of the chart, the others, and examples."""
    vertical, across = quality.axes
    first = [measure for measure in (vertical, across) if measure.name in setting.figures]
    rest = [m for m in quality.measures.values() if m.name in setting.figures and m not in first]
    star = " (recommended)" if setting.name == quality.recommended else ""
    texts = [example(prompt, text) for prompt, text in setting.examples[:EXAMPLES]]
    return [
        element("h4", "What people wrote" if setting.is_human else join([code(setting.label), star])),
        element("p", "; ".join(in_words(measure, setting) for measure in first), class_="measures"),
        *texts,
        element("p", "; ".join(in_words(measure, setting) for measure in rest), class_="note"),
    ]


def in_words(measure: Measure, setting: Setting) -> str:
    figure = setting.figures[measure.name]
    unit = "" if measure.unit in ("", "share") else f" {measure.unit}"
    ends = f" ({measure.show_interval(figure.interval)})" if figure.interval else ""
    return f"{measure.title} {measure.show(figure.value)}{unit}{ends}"


def example(prompt: str, text: str) -> Markup:
    cut = f"{text[:LONGEST]}…" if len(text) > LONGEST else text
    return element("blockquote", element("span", prompt, class_="prompt"), cut, class_="text")


def articles(quality: Quality, prefix: str) -> list[Markup]:
    return [
        element("article", *setting_parts(setting, quality), id=f"{prefix}-{number}")
        for number, setting in enumerate(quality.settings)
    ]


def measures_table(quality: Quality) -> Markup:
    """A row for each setting, human text first; the script sorts it by any column."""
    used = [m for m in quality.measures.values() if any(m.name in s.figures for s in quality.settings)]
    used.sort(key=lambda measure: GROUPS.index(measure.group))
    order = sorted(quality.settings, key=lambda setting: not setting.is_human)
    body = [table_row(setting, quality, used) for setting in order]
    head = element("thead", group_row(used), element("tr", *(heading(text) for text in ["sampler", *used])))
    caption = element("caption", "All measures", class_="hidden")
    content = element("table", caption, head, element("tbody", *body), class_="numbers sortable")
    return element("div", content, class_=f"scroll{' across' if len(used) > WIDE else ''}")


def group_row(used: Sequence[Measure]) -> Markup:
    sizes = [(group, sum(m.group == group for m in used)) for group in GROUPS]
    cells = [element("th", group, scope="colgroup", colspan=size, class_="group") for group, size in sizes if size]
    return element("tr", element("td"), *cells)


def heading(what: str | Measure) -> Markup:
    if isinstance(what, str):
        return element("th", what, scope="col")
    return element("th", what.title, scope="col", title=what.about or None)


def table_row(setting: Setting, quality: Quality, used: Sequence[Measure]) -> Markup:
    recommended = setting.name == quality.recommended
    name = join([code(setting.label), " (recommended)" if recommended else None])
    cells = []
    for measure in used:
        figure = setting.figures.get(measure.name)
        value = figure.value if figure else None
        cells.append(element("td", measure.cell(figure) or "–", data_value=None if value is None else repr(value)))
    css = "human-row" if setting.is_human else "recommended" if recommended else None
    return element("tr", element("th", name, scope="row"), *cells, class_=css)


def measures_list(quality: Quality) -> Markup | None:
    """What each measure is, in the words of who computes it."""
    told = [measure for measure in quality.measures.values() if measure.about]
    if not told:
        return None
    pairs = [part for m in told for part in (element("dt", m.title), element("dd", m.about))]
    return element("details", element("summary", "What the measures are"), element("dl", *pairs, class_="about"))
