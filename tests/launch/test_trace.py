"""`skald trace` and `skald prepare --index`: what they say of a text is true of the training text, and errors are one
line."""

import html.parser
import json
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_bad_input import assert_error_line

from data.documents import Documents
from data.index.build import spans
from launch.commands.trace import summary
from launch.commands.trace_page import html_page
from launch.inference.provenance import HUMAN_TEXTS, HUMAN_TOKENS, Novelty, human_texts
from launch.inference.tracing import Trace

SHAKESPEARE = (Path(__file__).parents[2] / "data/corpora/tinyshakespeare.txt").read_text()
TRAIN = SHAKESPEARE[: round(len(SHAKESPEARE) * 0.09)]
COPY = TRAIN[40_000:40_120]
TEXT = f"Queer zebras & <oxen>\n{COPY}qqqq{TRAIN[70_000:70_040]}".replace("<", "'").replace(">", "'")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "story & song.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="module")
def traced(skald, trained_run, text_file) -> dict:
    return skald.json("trace", trained_run, "--text", text_file, "--least", 20)


def test_json_says_where_each_span_stands(traced):
    assert traced["step"] == 40 and traced["least"] == 20 and traced["tokens"] == len(TEXT)
    assert traced["longest_tokens"] == max(span["tokens"] for span in traced["spans"]) >= 120
    for span in traced["spans"]:
        text = TEXT[span["start"] : span["stop"]]
        assert span["text"] == text and span["tokens"] == len(text) >= 20
        assert SHAKESPEARE[span["offset"] :].startswith(text) and span["offset"] + len(text) <= len(TRAIN)
        around = SHAKESPEARE[span["offset"] - 24 : span["offset"] + len(text) + 24]
        assert span["before"] + text + span["after"] == around and span["title"] == "embedded:shakespeare"
        assert span["count"] == len(re.findall(f"(?={re.escape(text)})", TRAIN))
    assert traced["longest"] in [{k: v for k, v in span.items() if k != "tokens"} for span in traced["spans"]]
    inside = sum(any(s["start"] <= i < s["stop"] for s in traced["spans"]) for i in range(len(TEXT)))
    assert traced["marked"] == pytest.approx(inside / len(TEXT))
    for n, share in enumerate(traced["new_ngrams"], 1):
        known = {TRAIN[i : i + n] for i in range(len(TRAIN) - n + 1)}
        new = [TEXT[i : i + n] not in known for i in range(len(TEXT) - n + 1)]
        assert share == pytest.approx(sum(new) / len(new))


def test_human_text_is_the_yardstick(skald, trained_run, text_file, traced):
    """Pieces as long as the text, of the validation split; where no length is named, a hundredth of it is marked."""
    human = traced["human"]
    assert human["tokens"] == human["texts"] * len(TEXT) and human["longest_tokens"]["most"] < 60
    assert human["median_tokens"] == len(TEXT) and traced["untraced"] is None
    assert all(a <= b for a, b in zip(human["new_ngrams"], human["new_ngrams"][1:], strict=False))
    chosen = skald.json("trace", trained_run, "--text", text_file)
    assert 0 < chosen["human"]["marked"] <= 0.01 and 8 < chosen["least"] < 40
    less = skald.json("trace", trained_run, "--text", text_file, "--least", chosen["least"] - 1)
    assert less["human"]["marked"] > 0.01


def all_pieces(documents: Documents, tokens: int) -> list[list[int]]:
    """Of every document its pieces of so many tokens, one after another, or all of a shorter one."""
    pieces = []
    for start, stop in spans(documents):
        stop -= documents.ended
        starts = range(start, max(stop - tokens, start) + 1, tokens)
        pieces += [documents.tokens[begin : min(begin + tokens, stop)].tolist() for begin in starts if begin < stop]
    return pieces


@pytest.mark.parametrize("tokens", [1, 3, 7, 40, 600])
@pytest.mark.parametrize("pairs", [False, True])
def test_human_pieces_are_spread_over_all_documents(tokens, pairs):
    """Of 0 to 90 tokens, those of one split with end tokens, of preference pairs both halves, and an empty split."""
    random = np.random.default_rng(tokens)
    splits = []
    for count, ended in ((400, False), (0, False), (300, True)):
        sizes = random.integers(0, 90, count) * random.integers(0, 2, count) + ended * (1 + pairs)
        offsets = np.cumsum([0, *sizes])
        halves = offsets[:-1] + sizes // 2 if pairs else None
        splits.append(Documents(np.arange(offsets[-1]), offsets, sizes, ended, halves=halves))
    expected = [piece for documents in splits for piece in all_pieces(documents, tokens)]
    found = human_texts(SimpleNamespace(validation=[SimpleNamespace(documents=each) for each in splits]), tokens)
    count = min(len(expected), HUMAN_TEXTS, max(1, HUMAN_TOKENS // tokens))
    assert [piece.tolist() for piece in found] == [expected[n * len(expected) // count] for n in range(count)]


def test_choosing_human_pieces_takes_no_memory_for_each_of_them():
    offsets = np.array([0, 300_000, 300_001])
    documents = Documents(np.zeros(offsets[-1], np.uint16), offsets, np.diff(offsets), False)
    tracemalloc.start()
    try:
        assert len(human_texts(SimpleNamespace(validation=[SimpleNamespace(documents=documents)]), 1)) == HUMAN_TEXTS
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_yardstick_of_shorter_texts_is_said_to_be_so():
    own, human = Novelty(1, 2000, [0.5] * 16, [9]), Novelty(3, 900, [0.25] * 16, [4, 5, 6])
    traced = Trace(["a"], [], np.zeros(1, np.int32), 7, own, human, 300, 0.01, None)
    page = html_page(traced, "run", "file")
    assert "3 held-out human texts, of 300 tokens (median; this text has 2,000), the longest has 5" in page
    assert "as long" not in page and any("3 held-out human texts of 300 tokens" in line for line in summary(traced))
    assert traced.to_json()["human"]["median_tokens"] == 300


def test_text_of_the_run_that_it_started_from_is_said_not_to_be_looked_up(skald, run_copy, text_file, tmp_path):
    file = run_copy / "checkpoints" / "40" / "about" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started_from": "runs/b&w/checkpoints/7"}))
    told = "The index does not hold the text that runs/b&w was trained on, from whose step 7 the run started"
    assert skald.json("trace", run_copy, "--text", text_file)["untraced"] == told
    status, out, _ = skald("trace", run_copy, "--text", text_file, "--html", tmp_path / "o.html")
    assert status == 0 and out.splitlines()[-1] == told
    assert told.replace("&", "&amp;") in (tmp_path / "o.html").read_text()


class Page(html.parser.HTMLParser):
    """The text of a page by the element that it stands in, and the addresses that the page names."""

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.marked, self.body, self.addresses = [], "", "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.stack += [] if tag == "meta" else [tag]
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        while self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if "div" in self.stack and "sup" not in self.stack and "table" not in self.stack:
            self.body += data
            self.marked += data * ("mark" in self.stack)


def test_the_page_holds_the_text_and_loads_nothing(skald, trained_run, text_file, tmp_path, traced):
    status, _, err = skald("trace", trained_run, "--text", text_file, "--least", 20, "--html", tmp_path / "o.html")
    assert status == 0 and "wrote" in err
    source = (tmp_path / "o.html").read_text()
    page = Page(source)
    assert page.body.startswith(TEXT) and "story &amp; song" in source and "Queer zebras &amp; &#x27;oxen" in source
    assert len(page.marked) == round(traced["marked"] * len(TEXT))
    assert all(address.startswith("#") for address in page.addresses) and "prefers-color-scheme" in source
    assert not re.search(r"https?:|@import|url\(", source)


def test_a_terminal_that_shows_no_colours_gets_brackets(skald, trained_run, text_file, traced):
    status, out, _ = skald("trace", trained_run, "--text", text_file, "--least", 20)
    shown = out.partition("\n\n[1]")[0]
    assert status == 0 and re.sub(r"⟦|⟧\[\d+\]", "", shown) == TEXT
    assert shown.count("⟦") == len(traced["spans"]) and "\x1b" not in out
    assert re.search(rf"\[1\] {traced['spans'][0]['tokens']} tokens: embedded:shakespeare, token ", out)
    assert "longest copied span: " in out and "held-out human texts" in out


def test_bad_input_is_one_line_each(skald, trained_run, tmp_path, text_file):
    files = {"latin.txt": "é".encode("latin-1"), "empty.txt": b"", "strange.txt": "snow ☃".encode()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    cases = [
        ([tmp_path / "none.txt"], 1, "none.txt: can't read the text (No such file"),
        ([tmp_path], 1, "can't read the text (Is a directory)"),
        ([tmp_path / "latin.txt"], 1, "latin.txt: byte 0 is no UTF-8; save the text as UTF-8"),
        ([tmp_path / "empty.txt"], 1, "empty.txt: no text in it"),
        ([tmp_path / "strange.txt"], 1, "strange.txt: character '☃'"),
        ([text_file, "--html", tmp_path / "no" / "o.html"], 2, "o.html: there is no folder"),
    ]
    results = skald.run_many([["trace", trained_run, "--text", *rest] for rest, _, _ in cases])
    for (_, status, message), result in zip(cases, results, strict=True):
        assert_error_line(result, status, message)


def test_standard_input_and_an_index_ahead_of_time(fresh, trained_run, tmp_path):
    """`prepare --index` says what the index takes; a run of the same data finds it. `skald cache` counts it."""
    runner = fresh.with_environment(SKALD_CACHE=str(tmp_path / "cache"))
    (source,) = runner.json("prepare", runner.config, "--index")["sources"]
    index = source["index"]
    assert index["tokens"] == source["training"]["tokens"] and index["parts"] == 1
    assert index["bytes_on_disk"] < 6.1 * index["tokens"] < source["bytes_on_disk"]
    made = sorted((tmp_path / "cache").rglob("*/index/*/*"))
    (store,) = runner.json("cache")["stores"]
    assert store["bytes"] == sum(file.stat().st_size for file in Path(store["folder"]).rglob("*") if file.is_file())
    process = runner.start("trace", trained_run, "--text", "/dev/null", "--json")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "skald: /dev/null: no text in it" in err
    assert sorted((tmp_path / "cache").rglob("*/index/*/*")) == made
    removed = runner.json("cache", "--prune", "--older-than", 0)["removed"]
    assert store["folder"] in [each["path"] for each in removed] and not any((tmp_path / "cache").rglob("index"))


def test_generate_obeys_the_link_with_the_run_s_own_index(skald, trained_run):
    arguments = ["generate", trained_run, "--prompt", COPY[:30], "--max-new-tokens", "40"]
    (free,) = skald.json(*arguments, "--sampler", "greedy")["samples"]
    (bounded,) = skald.json(*arguments, "--sampler", "max_copied_tokens=2,greedy")["samples"]

    def longest(text: str) -> int:
        text = COPY[:30] + text
        stops = range(31, len(text) + 1)
        return max(stop - start for stop in stops for start in range(stop) if text[start:stop] in TRAIN)

    assert longest(bounded["text"]) == 2 < longest(free["text"])
    assert json.dumps(bounded["chain"][0]) == '{"name": "max_copied_tokens", "tokens": 2}'
