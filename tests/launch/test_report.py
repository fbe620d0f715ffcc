"""`skald report`: the page of runs whose files are made here, read as a browser and a reader read it."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs import shakespeare
from launch.cli import main
from launch.report.html import SVG_VOID, VOID
from launch.report.page import page
from launch.report.run_files import read_runs
from train import fields
from train.checkpoint_folder import checkpoint_digest
from train.config import Muon

ROOT = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A page's elements, in order: (tag, attributes, text directly in it). Fails where tags are not balanced."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(source)
        self.close()
        assert self.open == [], f"never closed: {[tag for tag, *_ in self.open]}"

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len({name for name, _ in attributes}), attributes
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID - SVG_VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        assert tag in SVG_VOID, f"<{tag}/> is open in HTML"
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> within {self.open and self.open[-1][0]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, tag: str, css: str = "", **attributes) -> list[tuple[dict, str]]:
        """(attributes, text) of each element with this tag, class and attributes."""
        return [
            (own, "".join(text))
            for name, own, text in self.elements
            if name == tag
            and set(css.split()) <= set((own.get("class") or "").split())
            and attributes.items() <= own.items()
        ]

    def text(self, name: str) -> str:
        """All text of a section."""
        ((_, text),) = self.all("section", id=name)
        return text


def write_run(folder: Path, experiment=None, losses=(4.0, 3.0, 2.5, 2.0)) -> Path:
    """A run with config, metrics, samples and a checkpoint, its last step torn off by a kill."""
    experiment = experiment or shakespeare.quick()
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"version": "0.4.0", "experiment": fields.to_json(experiment)}))
    lines = [
        {
            "step": n,
            "tokens": 768 * n,
            "train/loss": loss,
            "rate": 0.01 * n,
            "grad_norm": 1 / n,
            "tokens_per_second": 9e3,
        }
        for n, loss in enumerate(losses, 1)
    ]
    lines[-1] |= {"eval/loss": losses[-1] + 0.1, "eval/bits_per_byte": (losses[-1] + 0.1) / math.log(2)}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "to')
    for step in (2, 4):
        (folder / "samples" / f"{step}.txt").write_text(f"Written at step {step} & <b>later</b>.\n")
    about = folder / "checkpoints" / "4" / "about"
    about.mkdir(parents=True)
    metadata = {"config": fields.to_json(experiment), "model": fields.to_json(experiment.model), "scores": {}}
    metadata |= {"trained_length": 64, "saved": 1_795_951_675.0, "version": "0.4.0", "data": {}}
    (about / "metadata").write_text(json.dumps(metadata))
    shapes = {"('a',)": [3, 4], "('b',)": [5]}
    tree = {name: {"value_metadata": {"write_shape": shape}} for name, shape in shapes.items()}
    (about.parent / "model").mkdir()
    (about.parent / "model" / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    return folder


SAMPLERS = {  # perplexity, self-BLEU, toxicity, the share of new n-grams for n = 1, 2, 3
    "human": (32.0, 0.30, 0.04, (0.02, 0.30, 0.90)),
    "greedy": (2.0, 0.90, 0.01, (0.00, 0.10, 0.40)),
    "top_p=0.9": (20.0, 0.42, 0.03, (0.01, 0.25, 0.80)),
    "temperature=1.2": (150.0, 0.12, 0.08, (0.05, 0.50, 0.98)),
}


def measured(step: int = 4) -> dict:
    """What `skald quality` finds."""

    def figure(value, spread):
        return {"value": value, "interval": [value * (1 - spread), value * (1 + spread)]}

    settings = [
        {
            "setting": name,
            "kind": name.partition("=")[0],
            "texts": 80,
            "tokens": 10240,
            "metrics": {
                "perplexity": figure(perplexity, 0.1),
                "self_bleu": figure(bleu, 0.05),
                "mauve": {"value": None, "interval": None},
                "toxicity_rate": figure(toxicity, 0.5),
            },
            "novelty": {
                "new_ngrams": list(new),
                "longest": {"tokens": 17, "text": "copied & pasted", "source": "s", "document": 3, "title": "A Tale"},
            },
            "distance": 2.0 * abs(bleu - 0.3),
            "examples": [{"prompt": "It was ", "text": f"a text of {name}"}],
        }
        for name, (perplexity, bleu, toxicity, new) in SAMPLERS.items()
    ]
    measures = {
        "perplexity": {
            "title": "perplexity",
            "group": "quality",
            "unit": "",
            "better": "lower",
            "about": "exp of loss",
        },
        "self_bleu": {"title": "self-BLEU", "group": "diversity", "unit": "share", "about": ""},
        "mauve": {"title": "MAUVE", "group": "quality", "unit": "", "about": ""},
        "toxicity_rate": {"title": "toxicity", "group": "risk", "unit": "share", "about": ""},
    }
    pair = {"pairs": 100, "score": 0.61, "interval": [0.51, 0.70]}
    audit_word = {
        "word": "ass",
        "share": 0.0375,
        "contexts": [{"before": "on an ", "match": "ass", "after": " through"}],
    }
    return {
        "step": step,
        "prompts": {"count": 80, "prompt_tokens": 32, "new_tokens": 128, "source": "two novels", "seed": 0},
        "measures": measures,
        "settings": settings,
        "frontier": [1, 2, 3],
        "axes": {"quality": "perplexity", "diversity": "self_bleu"},
        "recommended": {"setting": "top_p=0.9", "distance": 0.2, "why": "nearest to human text"},
        "gate": {
            "passed": False,
            "measures": {
                "self_bleu": {"value": 0.42, "interval": [0.28, 0.32], "inside": False},
                "zipf": {"value": 1.0, "interval": [0.9, 1.1], "inside": True},
            },
        },
        "risk": {
            "crows_pairs": pair | {"by_bias_type": {"age": pair}},
            "toxicity": {"words": 312, "audit": {"words": [audit_word]}},
        },
        "memorization": {
            "suffix_tokens": 50,
            "random": [{"prompt_tokens": 100, "texts": 60, "extracted": 0, "share": 0.0, "interval": [0.0, 0.06]}],
            "by_times_seen": [
                {"prompt_tokens": 50, "seen": [4.0, 8.0], "texts": 80, "share": 0.25, "interval": [0.17, 0.35]}
            ],
        },
        "cost": {"generation_seconds": 612.0, "scoring_seconds": 48.0, "generated_tokens": 30720, "model_passes": {}},
    }


CARD = {
    "parameters": 10_400_000,
    "wall_seconds": 3712.4,
    "device": {"kind": "cpu", "count": 2, "hours": 2.06},
    "tokens": 23_000_000,
    "flops": {"formula": 1.43e15, "compiled": None, "of_step": 3.6e11},
    "model_flops_utilization": None,
    "goodput": {"compile": 10.0, "step": 75.0, "data": 5.0, "evaluation": 4.0, "save": 3.0, "lost": 2.0, "other": 1.0}
    | {"goodput": 0.75},
    "energy": {"joules": None, "method": "unmeasured", "about": "no counter here", "by_device": []},
    "co2e_grams": None,
    "money": {"amount": 0.5, "chip_hour": 0.25},
}  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "first")


@pytest.fixture
def full_run(run) -> Path:
    """A run of which everything was measured."""
    write_json(run / "quality" / "4" / "quality.json", measured())
    write_json(run / "card.json", CARD)
    evaluation = {"step": 4, "loss": 2.11, "perplexity": 8.25, "bits_per_byte": 3.04, "tokens": 9, "bytes": 9}
    evaluation |= {"tasks": {"sentiment": {"metric": "classification", "accuracy": 0.75}}, "evaluated": {"text": None}}
    (run / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    (run / "tasks" / "4").mkdir(parents=True)
    results = [{"digest": "d", "task": "sentiment", "index": n, "correct": n < 3} for n in range(4)]
    (run / "tasks" / "4" / "sentiment-d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    return run


def write_json(file: Path, value: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def shown(*folders) -> Page:
    return Page(page(read_runs([str(folder) for folder in folders])))


def check_stands_alone(read: Page) -> None:
    """Nothing is loaded, links stay in the page, and each id is there once."""
    ids = [own["id"] for _, own, _ in read.elements if "id" in own]
    assert len(ids) == len(set(ids))
    for tag, own, _ in read.elements:
        assert tag not in ("img", "iframe", "link", "object", "embed", "video", "audio", "image", "use")
        assert not {"src", "srcset", "xlink:href", "data", "action", "style"} & own.keys(), own
        assert not any(name.startswith("on") for name in own), own
        assert "href" not in own or own["href"].removeprefix("#") in ids
        assert own.get("aria-labelledby", ids[0]) in ids
    ((_, style),) = read.all("style")
    ((_, script),) = read.all("script")
    assert not re.search(r"url\(|@import|@font-face|https?:", style)
    assert not re.search(r"fetch|import|XMLHttpRequest|eval|innerHTML|https?:|localStorage", script)


def test_a_page_stands_alone_and_has_every_section(full_run):
    read = shown(full_run)
    check_stands_alone(read)
    sections = [own["id"] for own, _ in read.all("section")]
    assert sections == ["curves", "samples", "frontier", "novelty", "risk", "gate", "evaluations", "cost", "config"]
    assert read.all("p", "missing") == []
    assert [own["href"] for own, _ in read.all("a")] == [f"#{name}" for name in sections]


def test_a_run_that_has_only_begun_says_what_would_fill_each_section(tmp_path):
    write_json(tmp_path / "new" / "config.json", {"version": "1", "experiment": fields.to_json(shakespeare.quick())})
    read = shown(tmp_path / "new")
    check_stands_alone(read)
    assert len(read.all("p", "missing")) == 8  # all but the config
    for name, command in {
        "frontier": "skald quality",
        "novelty": "--index",
        "risk": "skald quality",
        "gate": "--gate",
    }.items():
        assert command in read.text(name)
    assert "card.json" in read.text("cost") and "skald train" in read.text("curves")


def test_the_head_has_what_is_known_of_a_run(full_run):
    names = [text for _, text in shown(full_run).all("dt")]
    values = [text for _, text in shown(full_run).all("dd")]
    facts = dict(zip(names, values, strict=True))
    assert facts["config"] == "shakespeare:quick" and facts["parameters"] == "10.4 M" and facts["tokens"] == "3.07 k"
    assert facts["steps"] == "4 of 130" and facts["validation loss"] == "2.100 nats a token"
    assert facts["bits a byte"] == f"{2.1 / math.log(2):.3f}" and facts["wall time"] == "1 h 2 min"
    assert facts["saved"] == "29 November 2026, 11:27 UTC" and facts["Skald"] == "0.4.0"


def test_an_imported_checkpoint_has_a_page(run):
    (run / "config.json").unlink()
    (run / "metrics.jsonl").unlink()
    file = run / "checkpoints" / "4" / "about" / "metadata"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"config": None, "huggingface": {"architectures": ["GPT2"]}})
    )
    read = shown(run)
    check_stands_alone(read)
    assert "imported" in read.text("config") and [text for _, text in read.all("h1")] == ["first"]


def test_without_a_card_parameters_are_counted_in_the_checkpoint(run):
    assert read_runs([str(run)])[0].parameters == 3 * 4 + 5


def curve_values(read: Page, title: str, label: str) -> list[tuple[float, float]]:
    """(tokens, value) of a curve, off the drawn line by the labels of the axes, as a reader reads them."""
    start = next(
        i for i, (tag, _, text) in enumerate(read.elements) if tag == "figure" and "".join(text).startswith(title)
    )
    stop = next((i for i, e in enumerate(read.elements[start + 1 :], start + 1) if e[0] == "figure"), None)
    inside = read.elements[start:stop]
    labels = [(own, "".join(text)) for tag, own, text in inside if tag == "text" and "tick" in own["class"].split()]
    down = [(float(own["y"]) - 4, number(text)) for own, text in labels if own.get("dx")]
    along = [(float(own["x"].rstrip("%")) * 10, number(text)) for own, text in labels if not own.get("dx")]
    (line,) = [own for tag, own, _ in inside if tag == "polyline" and own.get("data-label") == label]
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    return [(between(x, along), between(y, down)) for x, y in points]


def number(label: str) -> float:
    value, _, unit = label.replace("−", "-").replace(",", "").partition(" ")
    return float(value) * {"": 1, "k": 1e3, "M": 1e6}[unit]


def between(place: float, labels: list[tuple[float, float]]) -> float:
    """The value at a place, by two labels of a linear axis."""
    (first, low), *_, (last, high) = labels
    return low + (place - first) / (last - first) * (high - low)


@pytest.mark.parametrize(
    ("title", "label", "metric"),
    [("Loss", "training", "train/loss"), ("Learning rate", "first", "rate"), ("Gradient norm", "first", "grad_norm")],
)
def test_values_read_off_a_curve_are_those_of_the_metrics(run, title, label, metric):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]]
    found = curve_values(shown(run), title, label)
    assert len(found) == len(lines)
    for (tokens, value), line in zip(found, lines, strict=True):
        assert tokens == pytest.approx(line["tokens"], abs=5) and value == pytest.approx(
            line[metric], rel=2e-3, abs=1e-4
        )


def test_values_read_off_the_samplers_chart_are_those_of_the_file(full_run):
    read = shown(full_run)
    start = next(i for i, (_, own, _) in enumerate(read.elements) if "scatter" in (own.get("class") or ""))
    stop = next(i for i, (_, own, _) in enumerate(read.elements) if own.get("class") == "panel")
    inside = read.elements[start:stop]
    labels = [(own, "".join(text)) for tag, own, text in inside if tag == "text" and "tick" in own["class"].split()]
    down = [(float(own["y"]) - 4, math.log(float(text))) for own, text in labels if own.get("dx")]  # 2 to 150: ratios
    along = [(float(own["x"].rstrip("%")), float(text.rstrip("%")) / 100) for own, text in labels if not own.get("dx")]
    dots = [own for tag, own, _ in inside if tag == "circle" and own["class"] == "dot"]
    assert len(dots) == len(SAMPLERS)
    for own, (perplexity, bleu, *_) in zip(dots, SAMPLERS.values(), strict=True):
        assert between(float(own["cx"].rstrip("%")), along) == pytest.approx(bleu, abs=1e-3)
        assert math.exp(between(float(own["cy"]), down)) == pytest.approx(perplexity, rel=1e-2)
    names = [text for _, text in read.all("text", "label")]
    assert "human" in names and "greedy" in names and "top_p=0.9 (recommended)" in names


def test_samplers_are_in_the_table_human_text_first(full_run):
    read = shown(full_run)
    rows = [text for _, text in read.all("tr") if "self-BLEU" not in text]
    row = next(text for own, text in read.all("tr", "human-row"))
    assert row == "human32.028.8 to 35.2–030.0%28.5 to 31.5%4.0%2.0 to 6.0%"
    assert rows.index(row) < next(i for i, text in enumerate(rows) if text.startswith("greedy2.00"))
    assert read.all("tr", "recommended")[0][1].startswith("top_p=0.9 (recommended)20.0")
    values = [own["data-value"] for own, _ in read.all("td") if "data-value" in own]
    assert values[:4] == ["32.0", "0.0", "0.3", "0.04"]  # MAUVE has none
    assert all(f"a text of {name}" in read.text("frontier") for name in SAMPLERS)


def test_novelty_risk_and_gate_say_what_was_found(full_run):
    read = shown(full_run)
    assert "A Tale" in read.text("novelty") and "copied & pasted" in read.text("novelty")
    text = read.text("novelty")
    assert "50 given, read 4–8× (80)25.0%" in text and "100 given, any (60)0.0%" in text
    assert text.index("50 given") < text.index("100 given") and "next 50 tokens" in text
    assert "age (100)61.0%" in read.text("risk") and "on an ass through" in read.text("risk")
    assert "Failed: 1 of 2 measures" in read.text("gate") and "self-BLEU" in read.text("gate")
    assert "42.0%28.0 to 32.0%✗ outside" in read.text("gate") and "✓ inside" in read.text("gate")


def test_a_gate_that_was_tried_alone_is_shown(run):
    found = measured() | {"default": "temperature=0.8", "settings": [], "frontier": []}
    write_json(run / "quality" / "4" / "gate.json", found)
    text = shown(run).text("gate")
    assert "Of the default sampler, temperature=0.8. Failed: 1 of 2 measures" in text and "self-BLEU42.0%" in text
    assert "Not measured yet" in shown(run).text("frontier")


def test_cost_adds_up_and_never_calls_energy_that_nobody_measured_0(full_run):
    text = shown(full_run).text("cost")
    assert "unmeasured (no counter here)" in text and "0 J" not in text and "not known without the energy" in text
    parts = [own for own, _ in shown(full_run).all("rect") if own.get("height") == "26"]
    begin, width = ([float(own[name].rstrip("%")) for own in parts] for name in ("x", "width"))
    assert width == pytest.approx([75, 10, 5, 4, 3, 2, 1], abs=0.01)
    assert begin == pytest.approx([0, 75, 85, 90, 94, 97, 99], abs=0.01)
    assert "goodput 75.0%" in text and "step 1 min 15 s, 75.0%" in text and "1.43 PFLOP" in text
    energy = {"joules": 102e3, "method": "modelled", "about": "", "by_device": []}
    grid = {"grid": {"g_per_kwh": [30, 480], "year": 2024, "source": "Ember"}, "co2e_grams": [1.3, 20.4]}
    grid["pue"] = {"value": 1.5, "year": 2024, "source": "a survey"}
    write_json(full_run / "card.json", CARD | {"energy": energy} | grid)
    text = shown(full_run).text("cost")
    assert (
        "102 kJ (28.3 Wh), modelled" in text
        and "1.3 to 20 g: 30 to 480 g/kWh (Ember, 2024), PUE 1.5 (a survey, 2024)" in text
    )


def test_scores_have_evaluations_and_tasks(full_run):
    text = shown(full_run).text("evaluations")
    assert "2.11" in text and "8.25" in text and "sentiment accuracy" in text and "75.0% (3 of 4)" in text


def test_the_config_shows_what_is_not_as_by_default(run):
    rows = [text for _, text in shown(run).all("tr")]
    assert "seed00" not in "".join(rows) and "optimizer.rule.isMuonAdamW" in rows
    assert "optimizer.rule.momentum0.850.95" in rows and "optimizer.peak_rate0.04–" in rows
    ((_, whole),) = [(own, text) for own, text in shown(run).all("pre") if '"is": "Experiment"' in text]
    assert json.loads(whole) == json.loads((run / "config.json").read_text())["experiment"]


def test_two_runs_stand_beside_each_other_with_their_differences_first(full_run, tmp_path):
    base = shakespeare.quick()
    changed = replace(base, seed=7, optimizer=replace(base.optimizer, rule=Muon(momentum=0.5)))
    other = write_run(tmp_path / "deeper" / "first", changed, (4.2, 3.3, 2.8, 2.2))
    read = shown(full_run, other)
    check_stands_alone(read)
    names = [f"{tmp_path.name}/first", "deeper/first"]
    assert [text for _, text in read.all("th")][1:3] == names
    config = read.text("config")
    assert config.index("Differences between the runs") < config.index("What is not as by default")
    rows = [text for _, text in read.all("tr")]
    assert (
        "optimizer.rule.momentum0.850.5" in rows
        and "seed07" in rows
        and "validation loss2.100 nats a token2.300 nats a token" in rows
    )
    labels = {own["data-label"] for own, _ in read.all("polyline") if "data-label" in own}
    assert {f"{name} {kind}" for name in names for kind in ("training", "validation")} <= labels
    assert curve_values(read, "Loss", f"{names[1]} training")[0][1] == pytest.approx(4.2, rel=2e-3)
    same = shown(full_run, full_run)
    check_stands_alone(same)
    assert "None: the configs are the same." in same.text("config")


def test_no_markup_of_a_file_runs(full_run, tmp_path):
    hostile = full_run.rename(tmp_path / "a<b>&\"'")
    for file in (hostile / "samples").iterdir():
        file.write_text(f"</pre><script>alert(1)</script>{HOSTILE}\x00\x1b[31m\n")
    quality = json.loads(json.dumps(measured()).replace("top_p=0.9", HOSTILE).replace("self-BLEU", HOSTILE))
    quality["settings"][1]["examples"] = [{"prompt": "</blockquote>", "text": "</script>\ud800"}]
    write_json(hostile / "quality" / "4" / "quality.json", quality)
    write_json(hostile / "card.json", CARD | {"device": {"kind": HOSTILE, "count": 1, "hours": 1.0}})
    config = json.loads((hostile / "config.json").read_text())
    config["experiment"]["name"] = "</title><script>"
    write_json(hostile / "config.json", config)
    read = shown(hostile)
    check_stands_alone(read)  # neither an img nor another script
    assert HOSTILE in read.text("frontier") and HOSTILE in read.text("cost") and HOSTILE in read.text("samples")
    assert [text for _, text in read.all("h1")] == ["a<b>&\"'"]
    page(read_runs([str(hostile)])).encode("utf-8")


def test_wrong_files_are_refused_in_a_line_with_the_file_and_the_place(full_run):
    metrics, quality = full_run / "metrics.jsonl", full_run / "quality" / "4" / "quality.json"
    lines = metrics.read_text().split("\n")

    def refusal(file: Path, content: str) -> str:
        kept = file.read_text()
        file.write_text(content)
        with pytest.raises(ValueError) as error:
            shown(full_run)
        file.write_text(kept)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"{metrics}:2: no JSON" in refusal(metrics, "\n".join([lines[0], "{", *lines[2:]]))
    assert f"{metrics}:2: expected an object" in refusal(metrics, "\n".join([lines[0], "[]", *lines[2:]]))
    assert f"{metrics}:1: no 'step' there" in refusal(metrics, "{}\n")
    assert f'{metrics}:1: tokens: expected a number, got "7"' in refusal(metrics, '{"step": 1, "tokens": "7"}\n')
    assert f"{metrics}:1: train/loss: expected a number" in refusal(
        metrics, '{"step": 1, "tokens": 7, "train/loss": []}\n'
    )
    wrong = measured()
    wrong["settings"][2]["metrics"]["perplexity"]["interval"] = [3, 2]
    where = "settings.2.metrics.perplexity.interval: expected two numbers, the smaller first, got [3, 2]"
    assert f"{quality}: {where}" in refusal(quality, json.dumps(wrong))
    assert "frontier: 9 is no number of a setting; there are 4" in refusal(
        quality, json.dumps(measured() | {"frontier": [9]})
    )
    axes = {"quality": "charm", "diversity": "self_bleu"}
    assert "axes.quality: expected one of the file's measures (perplexity," in refusal(
        quality, json.dumps(measured() | {"axes": axes})
    )
    assert f"{full_run / 'card.json'}:1: no JSON" in refusal(full_run / "card.json", "{'wall': 1}")
    config = full_run / "config.json"
    assert f"{config}: steps" in refusal(config, config.read_text().replace('"steps": 130', '"steps": "many"'))
    evaluations = full_run / "evaluations.jsonl"
    assert f"{evaluations}:1: no 'step' there" in refusal(evaluations, "{}\n")


def write_earlier_checkpoint(run: Path) -> None:
    """A checkpoint of step 2 beside that of step 4."""
    earlier = run / "checkpoints" / "2"
    (earlier / "about").mkdir(parents=True)
    (earlier / "model").mkdir()
    (earlier / "about" / "metadata").write_text((run / "checkpoints" / "4" / "about" / "metadata").read_text())


def test_a_step_that_is_named_shows_what_was_known_by_then(full_run):
    write_earlier_checkpoint(full_run)
    lines = [json.loads(line) for line in (full_run / "metrics.jsonl").read_text().split("\n")[:-1]]
    lines[1] |= {"eval/loss": 3.3, "eval/bits_per_byte": 4.75}
    (full_run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = shown(f"{full_run}@2")
    names, values = ([text for _, text in read.all(tag)] for tag in ("dt", "dd"))
    facts = dict(zip(names, values, strict=True))
    assert facts["tokens"] == "1.54 k" and facts["steps"] == "2 of 130" and facts["bits a byte"] == "4.750"
    assert facts["validation loss"] == "3.300 nats a token" and facts["wall time"] == "1 h 2 min (of the whole run)"
    assert len(curve_values(read, "Loss", "training")) == 2
    assert "step 2" in read.text("samples") and "step 4" not in read.text("samples")
    assert "first@2: what the whole run cost, not only up to step 2." in read.text("cost")
    whole = shown(full_run)
    assert "whole run" not in whole.text("cost") and "step 4" in whole.text("samples")


def test_figures_of_other_weights_are_said_to_be_so(full_run):
    file = full_run / "quality" / "4" / "quality.json"
    own = checkpoint_digest(full_run / "checkpoints" / "4")
    write_json(file, measured() | {"checkpoint": own, "weights": None, "quantize": "none"})
    assert not any("Measured with" in shown(full_run).text(name) for name in ("frontier", "gate"))
    write_json(file, measured() | {"checkpoint": own, "weights": "plain", "quantize": "int8"})
    told = "Measured with the weights as they are, not their average, weights in int8."
    for name in ("frontier", "gate"):
        assert told in shown(full_run).text(name) and "earlier checkpoint" not in shown(full_run).text(name)
    write_json(file, measured() | {"checkpoint": "of another", "weights": "average"})
    text = shown(full_run).text("frontier")
    assert "Measured with the average of the weights. These figures are of an earlier checkpoint at step 4" in text
    for part in (full_run / "checkpoints" / "4").rglob("metadata"):
        part.unlink()
    assert "earlier checkpoint" not in shown(full_run).text("frontier")


def test_the_newer_gate_of_a_step_is_shown(full_run):
    alone, together = (full_run / "quality" / "4" / name for name in ("gate.json", "quality.json"))
    result = {"passed": True, "measures": {}, "tokens": 96, "too_short": True, "human_tokens": 128}
    write_json(alone, measured() | {"gate": result})
    for newer, older, verdict in ((alone, together, "Passed"), (together, alone, "Failed")):
        os.utime(older, (1e9, 1e9))
        os.utime(newer, (2e9, 2e9))
        text = shown(full_run).text("gate")
        assert verdict in text
        told = "A tenth of the texts or more end before token 97; people's have 128."
        assert (told in text) == (newer == alone)
    os.utime(alone, (3e9, 3e9))
    write_json(alone, measured() | {"gate": result | {"too_short": False}})
    assert "A tenth" not in shown(full_run).text("gate")


def test_folders_that_no_step_names_are_left_alone(full_run):
    for name in ("4-old", "old", "²"):
        for file in ("quality/4/quality.json", "tasks/4/sentiment-d.jsonl"):
            copy = full_run / file.replace("4/", f"{name}/")
            copy.parent.mkdir(parents=True)
            copy.write_text((full_run / file).read_text())
        write_json(full_run / "quality" / name / "gate.json", measured())
        (full_run / "samples" / f"{name}.txt").write_text("kept")
    (read,) = read_runs([str(full_run)])
    assert read.quality_steps == [4] and len(read.tasks) == 1 and [each.step for each in read.samples] == [2, 4]
    page([read])


def test_steps_that_were_lost_are_called_so(full_run):
    write_json(full_run / "card.json", CARD | {"lost_steps": 7})
    assert "steps that were lost7" in "".join(text for _, text in shown(full_run).all("tr"))


def test_a_measured_step_can_be_named(full_run):
    write_earlier_checkpoint(full_run)
    write_json(full_run / "quality" / "2" / "quality.json", measured(2) | {"frontier": []})
    assert "also at 2" in shown(full_run).text("frontier")
    named = read_runs([f"{full_run}@2"])[0]
    assert named.name == "first@2" and named.quality.step == 2


COMMAND_WITHOUT_JAX = """
import sys
from launch.cli import main
status = main(sys.argv[1:])
assert not {"jax", "flax", "torch", "rich"} & set(sys.modules)
sys.exit(status)
"""


def test_the_command_writes_the_page_into_the_run_without_jax(full_run):
    command = [sys.executable, "-c", COMMAND_WITHOUT_JAX, "report", str(full_run), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    written = full_run / "report.html"
    assert told == {"file": str(written), "bytes": written.stat().st_size, "runs": ["first"]}
    assert written.read_text() == page(read_runs([str(full_run)])) and told["bytes"] < 200_000


def test_the_command_says_what_is_wrong_in_a_line(run, tmp_path, capsys):
    cases = {
        (str(tmp_path / "none"),): (2, "no such folder"),
        (str(tmp_path),): (2, "no run: neither config.json nor a checkpoint in it"),
        (f"{run}@7",): (2, "no such checkpoint"),
        (str(run), "--out", str(tmp_path)): (1, "a folder; name a file with --out"),
        (str(run), "--out", str(tmp_path / "none" / "a.html")): (1, "can't write there"),
    }
    for arguments, (status, words) in cases.items():
        assert main(["report", *arguments]) == status
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 1
    assert main(["report", str(run), "--out", str(tmp_path / "a.html")]) == 0
    assert str(tmp_path / "a.html") in capsys.readouterr().out
