"""RUN/quality/STEP/quality.json, as `skald quality` writes it, checked: settings of samplers and what they score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data.errors import DataError
from launch.report.html import Markup, element
from launch.report.json_files import Part
from launch.report.numbers import percent, significant

HUMAN = "human"
GROUPS = ("quality", "diversity", "novelty", "risk")


@dataclass(frozen=True)
class Figure:
    """A value, None where it is not defined, with its 95% interval."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Measure:
    """`better`: higher, lower or human (near that of human text); None where the file does not say."""

    name: str
    title: str
    group: str
    unit: str
    about: str
    better: str | None

    def show(self, value: float | None) -> str:
        if self.unit == "share":
            return percent(value)
        return f"{value:,}" if isinstance(value, int) else significant(value, 3, trim=False)

    def show_interval(self, low_high: tuple[float, float]) -> str:
        low, high = map(self.show, low_high)
        return f"{low.removesuffix('%')} to {high}"

    def cell(self, figure: Figure | None) -> Markup | None:
        """The value, and below it the interval in small print. The title says what it is."""
        if figure is None:
            return None
        low_high = figure.interval
        small = element("span", self.show_interval(low_high), class_="interval") if low_high else None
        return element("span", self.show(figure.value), small)


@dataclass(frozen=True)
class Copied:
    """The longest span of a setting's texts that stands in training."""

    tokens: int
    text: str
    source: str


@dataclass(frozen=True)
class Setting:
    """A sampler chain, or human text. `new_ngrams`: the share of n-grams that are not in training, n from 1; None where
    no text is so long."""

    name: str
    kind: str
    figures: Mapping[str, Figure]
    examples: Sequence[tuple[str, str]]
    new_ngrams: Sequence[float | None]
    longest: Copied | None

    @property
    def label(self) -> str:
        """The name for people: a chain without links has none of its own."""
        return self.name or "the model as it is"

    @property
    def is_human(self) -> bool:
        return self.name == HUMAN


@dataclass(frozen=True)
class Quality:
    """`frontier`: numbers of settings. `axes`: the measures of quality and of diversity. `recommended`: a setting's
    name, and why. `file`: the file's other parts, which the sections of novelty, risk and the gate read."""

    step: int
    measures: Mapping[str, Measure]
    settings: Sequence[Setting]
    frontier: Sequence[int]
    axes: tuple[Measure, Measure]
    recommended: str | None
    why: str
    file: Part

    def __getitem__(self, name: str) -> Setting | None:
        return next((setting for setting in self.settings if setting.name == name), None)

    @property
    def marked(self) -> list[Setting]:
        """The settings that a reader looks for: human text, the recommended one, greedy."""
        names = dict.fromkeys([HUMAN, self.recommended, "greedy"])
        return [setting for name in names if name is not None and (setting := self[name])]


DISTANCE = Measure(
    "distance", "distance from human text", "diversity", "", "all measures of repetition and diversity in one: 0 is "
    "human text, 1 as far from it as the borders of what human texts span (root mean square)", "lower",
)  # fmt: skip


def read_quality(file: Part) -> Quality:
    """Raises DataError naming the file and the place in it."""
    settings = [read_setting(part) for part in file["settings"].list()]
    measures = {name: read_measure(name, part) for name, part in file["measures"].items()}
    frontier = [part.whole() for part in file["frontier"].list()]
    if bad := [number for number in frontier if not 0 <= number < len(settings)]:
        raise DataError(f"{file.file}: frontier: {bad[0]} is no number of a setting; there are {len(settings)}")
    axes = tuple(axis_measure(file["axes"][name], measures) for name in ("quality", "diversity"))
    if any(DISTANCE.name in setting.figures for setting in settings):
        measures = {DISTANCE.name: DISTANCE} | measures
    recommended = file.get("recommended")
    setting = recommended and recommended.get("setting")
    why = recommended and recommended.get("why")
    name = setting.text() if setting else None
    return Quality(file["step"].whole(), measures, settings, frontier, axes, name, why.text() if why else "", file)


def axis_measure(name: Part, measures: Mapping[str, Measure]) -> Measure:
    if name.text() not in measures:
        raise name.fail(f"one of the file's measures ({', '.join(measures)})")
    return measures[name.text()]


def read_measure(name: str, part: Part) -> Measure:
    better = part.get("better")
    texts = {key: found.text() if (found := part.get(key)) else "" for key in ("unit", "about")}
    if part["group"].text() not in GROUPS:
        raise part["group"].fail(f"one of {', '.join(GROUPS)}")
    return Measure(name, part["title"].text(), part["group"].text(), **texts, better=better.text() if better else None)


def read_setting(part: Part) -> Setting:
    novelty, kind = part.get("novelty"), part.get("kind")
    ngrams, distance = novelty and novelty.get("new_ngrams"), part.get(DISTANCE.name)
    figures = {DISTANCE.name: Figure(distance.number(), None)} if distance else {}
    longest = novelty and novelty.get("longest")
    return Setting(
        name=part["setting"].text(),
        kind=kind.text() if kind else "",
        figures=figures | {name: read_figure(figure) for name, figure in part["metrics"].items()},
        examples=list(read_examples(part.get("examples"))),
        new_ngrams=[None if share.value is None else share.number() for share in ngrams.list()] if ngrams else [],
        longest=read_copied(longest) if longest else None,
    )


def read_figure(part: Part) -> Figure:
    value, low_high = part.get("value"), part.get("interval")
    return Figure(value.number() if value else None, low_high.range() if low_high else None)


def read_examples(part: Part | None) -> Iterator[tuple[str, str]]:
    for example in part.list() if part else ():
        prompt = example.get("prompt")
        yield prompt.text() if prompt else "", example["text"].text()


def read_copied(part: Part) -> Copied:
    title, text = part.get("title"), part.get("text")
    where = title.text() if title else f"{part['source'].text()}, document {part['document'].whole()}"
    return Copied(part["tokens"].whole(), text.text() if text else "", where)
