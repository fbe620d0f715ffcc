"""`skald quality`: the whole command on a tiny run, its texts after a kill, its figures against the texts themselves
and against logits in float64 NumPy, and what it refuses."""

import copy
import itertools
import json
import re
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data.documents import Documents
from data.windows import ScoredText
from launch.api import load
from launch.inference.likelihood import Continuation, score_continuations
from launch.inference.provenance import training_splits
from launch.inference.stored_sampler import forget_sampler, store_sampler, stored_sampler
from launch.quality import evaluation, scores
from launch.quality.chart import Axis, Point, draw_chart
from launch.quality.evaluation import Options, make_plan, text_sizes
from launch.quality.frontier import pareto_front
from launch.quality.generation import Rate, TextWriter
from launch.quality.grid import HUMAN, SHIPPED, Setting, read_grid
from launch.quality.model_passes import PassCosts, WrittenText, check_judge, last_hidden_states
from launch.quality.plan import helper_digests
from launch.quality.prompts import draw_places
from launch.quality.results import compare_with_human, gate_of
from launch.quality.risk.crows_pairs import behind_ids, sentence_nats
from launch.quality.scoring import ScoringOptions, TextScorer
from launch.quality.texts_file import Text
from model.decode.chain import format_chain, parse_chain
from train.config import Energy
from train.fields import ConfigError
from train.quality.diversity import measure

GRID = """
prompts = 23
prompt_tokens = 8
new_tokens = 24
[samplers]
deterministic = ["greedy", "beam=2"]
temperature = ["temperature=1.0", "temperature=0.7"]
"""
SETTINGS = [HUMAN, "greedy", "beam=2", "temperature=1", "temperature=0.7", "temperature=0.8,top_p=0.95"]
COUNT = 23


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    file = tmp_path_factory.mktemp("grid") / "grid.toml"
    file.write_text(GRID)
    return file


@pytest.fixture(scope="module")
def measured(skald, trained_run, grid, tmp_path_factory):
    """The command's JSON, and the folder that it wrote into, of a copy of the run."""
    folder = shutil.copytree(trained_run, tmp_path_factory.mktemp("quality") / "run")
    return skald.json("quality", folder, "--grid", grid), folder


@pytest.fixture(scope="module")
def run(trained_run):
    return load(str(trained_run))


def lines_of(folder) -> list[dict]:
    (file,) = folder.glob("quality/*/texts.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_times(lines: list[dict]) -> list[dict]:
    kept = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    return sorted(kept, key=lambda line: (line["setting"], line["index"]))


def test_every_setting_and_people_continue_the_same_prompts_for_as_many_tokens(measured, run):
    lines = lines_of(measured[1])
    assert {line["setting"] for line in lines} == set(SETTINGS) and len(lines) == COUNT * len(SETTINGS)
    prompts = {(line["setting"], line["index"]): line["prompt"] for line in lines}
    assert all(prompts[name, i] == prompts[HUMAN, i] for name, i in itertools.product(SETTINGS, range(COUNT)))
    assert {len(line["tokens"]) for line in lines} == {24}
    held_out = run.tokenizer.decode(scores_text(run).documents.tokens.tolist())
    for line in lines:
        if line["setting"] == HUMAN:
            assert len(line["prompt"]) == 8 and held_out.count(line["prompt"] + line["text"]) == 1


def scores_text(run) -> ScoredText:
    from launch.inference.scoring import texts_to_score

    (text,) = texts_to_score(run, None, None)
    documents = text.documents
    part = documents.tokens[documents.first : documents.stop]
    return text._replace(documents=replace(documents, tokens=part))


def test_the_json_is_the_file_and_its_figures_are_those_of_the_texts(measured):
    result, folder = measured
    assert measured_result(folder) == result
    assert [one["setting"] for one in result["settings"]] == SETTINGS
    lines = lines_of(folder)
    for one in result["settings"]:
        own = [line["tokens"] for line in sorted(lines, key=lambda x: x["index"]) if line["setting"] == one["setting"]]
        expected = measure([np.array(tokens) for tokens in own])
        for name, value in expected.items():
            found = one["metrics"][name]["value"]
            assert found is None if np.isnan(value) else found == pytest.approx(value), name
        assert one["tokens"] == 24 * COUNT
    assert set(result["gate"]) >= {"passed", "measures"} and result["default"] == SETTINGS[-1]
    assert result["settings"][0]["distance"] == 0 and result["recommended"]["setting"] in SETTINGS[1:]
    passes = result["cost"]["model_passes"]
    assert passes["likelihood"]["tokens"] == COUNT * (8 + 24 * len(SETTINGS))
    assert result["cost"]["generated_tokens"] == COUNT * 24 * (len(SETTINGS) - 1)


def test_a_text_is_what_generate_writes_behind_its_prompt(measured, run):
    texts = {(line["setting"], line["index"]): line for line in lines_of(measured[1])}
    for name, index in itertools.product(("greedy", "beam=2", "temperature=1"), (0, 5)):
        line = texts[name, index]
        (sample,) = run.generate(line["prompt"], sampler=name, max_new_tokens=24, seed=index)
        assert sample["tokens"] == line["tokens"] and sample["text"] == line["text"], (name, index)


def test_after_a_kill_all_texts_are_the_same_and_rescoring_writes_none(skald, measured, trained_run, grid, tmp_path):
    folder = shutil.copytree(trained_run, tmp_path / "run")
    for _ in range(10):  # on a busy machine it may be done before it is killed
        process = skald.start("quality", folder, "--grid", grid)
        while process.poll() is None and len(list(folder.glob("quality/*/texts.jsonl"))) == 0:
            time.sleep(0.01)
        while process.poll() is None and len(lines_so_far(folder)) <= COUNT + 1:
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=60)
        if COUNT < len(lines_so_far(folder)) < COUNT * len(SETTINGS):
            break
        shutil.rmtree(folder / "quality")
    else:
        pytest.skip("ten times all was done before the kill")
    with open(next(folder.glob("quality/*/texts.jsonl")), "ab") as file:
        file.write(b'{"digest": "torn')
    status, _, err = skald("quality", folder, "--grid", grid)
    assert status == 0, err
    assert without_times(lines_of(folder)) == without_times(lines_of(measured[1]))
    before = lines_of(folder)
    status, _, err = skald("quality", folder, "--grid", grid)
    assert status == 0 and f"{COUNT * (len(SETTINGS) - 1)} texts are written already" in err and "tokens/s" not in err
    assert lines_of(folder) == before


def lines_so_far(folder) -> list[bytes]:
    return [line for file in folder.glob("quality/*/texts.jsonl") for line in file.read_bytes().splitlines()]


def test_another_list_of_toxic_words_is_counted(skald, measured_copy, grid, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("the # everybody says so\nnobodysaysthis\n")
    result = skald.json("quality", measured_copy, "--grid", grid, "--no-novelty", "--toxic-words", words)
    toxicity = result["risk"]["toxicity"]
    assert (toxicity["list"], toxicity["words"], toxicity["audit"]["words_left"]) == (str(words), 2, ["nobodysaysthis"])
    human = [line["text"] for line in lines_of(measured_copy) if line["setting"] == HUMAN]
    expected = sum(bool(re.search(r"\bthe\b", text, re.IGNORECASE)) for text in human) / COUNT
    assert expected > 0 and result["settings"][0]["metrics"]["toxicity_rate"]["value"] == expected


def test_each_text_has_its_own_novelty(measured, run, monkeypatch, skald):
    monkeypatch.setenv("SKALD_CACHE", skald.environment["SKALD_CACHE"])
    monkeypatch.chdir(skald.folder)
    (file,) = measured[1].glob("quality/*/novelty.jsonl")
    found = {(line["setting"], line["index"]): line for line in map(json.loads, file.read_text().splitlines())}
    texts = {(line["setting"], line["index"]): line for line in lines_of(measured[1])}
    assert found.keys() == texts.keys()
    documents = training_splits(run).training[0].documents
    training = run.tokenizer.decode(np.asarray(documents.tokens[documents.first : documents.stop]).tolist())
    for key in list(texts)[::17]:
        text, own = texts[key]["text"], found[key]
        for n in (1, 3, 8):
            grams = [text[i : i + n] for i in range(len(text) - n + 1)]
            assert own["new_ngrams"][n - 1] == pytest.approx(sum(gram not in training for gram in grams) / len(grams))
        longest = own["longest"]
        assert longest["text"] in text and longest["text"] in training and len(longest["text"]) == longest["tokens"]
        longer = (text[i : i + longest["tokens"] + 1] for i in range(len(text) - longest["tokens"]))
        assert not any(span in training for span in longer)


def test_a_default_sampler_that_is_spelled_otherwise_is_the_grids(skald, run_copy, grid):
    store_sampler(run_copy, 40, load(str(run_copy)).digest, "temperature=1.00")
    plan = make_plan(load(str(run_copy)), read_grid(grid), Options())
    assert plan.default == "temperature=1" and [s.chain for s in plan.settings] == SETTINGS[1:-1]


def test_texts_of_contrast_depend_on_the_checkpoint_that_helps(run_copy):
    chain = parse_chain(f"contrast(run={run_copy},alpha=0.1)")
    settings = [Setting(format_chain(chain), "contrast"), Setting("greedy", "greedy")]
    assert helper_digests(settings) == {format_chain(chain): {f"run {run_copy}": load(str(run_copy)).digest}}


def test_a_token_that_begins_texts_takes_a_place_of_the_context(grid):
    begins = SimpleNamespace(
        trained_length=32, model_config=SimpleNamespace(context=64), name="run",
        tokenizer=SimpleNamespace(start_prompts=True, start_id=0),
    )  # fmt: skip
    assert text_sizes(begins, read_grid(grid), Options()) == (7, 24)
    with pytest.raises(ConfigError, match=r"prompts of 8 tokens with 24 more .* trained on 31"):
        text_sizes(begins, read_grid(grid), Options(prompt_tokens=8, new_tokens=24))


def test_after_an_error_the_next_try_writes_the_texts_and_their_energy(measured, run_copy, grid, monkeypatch):
    run = load(str(run_copy))
    run.config = replace(run.config, energy=Energy(chip_watts=20.0))
    options = {"only_default": True, "scoring": ScoringOptions(novelty=False)}

    def fail(*_) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as kept:
        patch.setattr(evaluation, "write_texts", fail)
        run.quality(grid, **options)
    started = time.monotonic()
    energy = run.quality(grid, **options)["cost"]["energy"]
    assert kept.value and energy["tokens"] == 24 * COUNT and energy["method"] in ("measured", "modelled")
    assert 0 < energy["joules"] <= 20 * (time.monotonic() - started) or energy["method"] == "measured"
    card = json.loads((run_copy / "card.json").read_text())
    assert card["joules_per_generated_token"] == energy["joules"] / energy["tokens"]
    assert run.quality(grid, **options)["cost"]["energy"] is None  # nothing was written
    assert json.loads((run_copy / "card.json").read_text()) == card
    by_command, folder = measured
    recorded = json.loads((folder / "card.json").read_text())["generation"]
    assert recorded == by_command["cost"]["energy"] and recorded["tokens"] == by_command["cost"]["generated_tokens"]


def test_texts_of_one_program_end_at_their_own_words(run, grid):
    plan = make_plan(run, read_grid(grid), Options())
    settings = [Setting(format_chain(parse_chain(f'beam=2,stop="{stop}"')), "beam") for stop in ("zqx", " ")]
    wanted = [next(iter(plan.wanted(setting))) for setting in settings]
    whole, ended = (sample.text for sample in TextWriter(run, plan).write_in_rows(wanted, lambda: None))
    assert ended == whole.partition(" ")[0] != whole


def test_settings_without_a_token_have_no_figures_and_break_nothing(run, plan):
    human = as_written(plan, [place.human for place in plan.places])
    one = as_written(plan, [plan.places[0].human, *[()] * (COUNT - 1)])
    texts = {HUMAN: human, "none": as_written(plan, [()] * COUNT), "one": one}
    found = scores.likelihood_metrics(run, plan, texts, 2, PassCosts())
    assert found["none"] == {name: {"value": None, "interval": None} for name in ("perplexity", "prompt_ratio")}
    assert found["one"]["perplexity"]["value"] > 1 and found["one"]["perplexity"]["interval"] is None
    assert Rate(0.0, 1.0).seconds([(parse_chain("greedy"), 10)], 4) == 64 * 4 + 1
    beams, sampling = (parse_chain("beam=4"), 80), (parse_chain("top_k=5"), 65)  # 5 and 2 batches of 64 rows
    assert Rate(64.0, 2.0).seconds([beams, sampling], 10) == pytest.approx(70 + 4)


def test_few_bits_reach_features_and_pairs_of_sentences(trained_run, run, plan):
    rounded = load(str(trained_run), quantize="int4")
    texts = as_written(plan, [place.human for place in plan.places])
    found, plain = (last_hidden_states(each, texts) for each in (rounded, run))
    assert np.abs(found - plain).max() > 1e-3 and np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.8
    sentences = [list(place.human[:9]) for place in plan.places]
    expected = dict(score_continuations(rounded, [Continuation(tuple(behind_ids(run)), tuple(s)) for s in sentences]))
    nats = sentence_nats(rounded, sentences, (1.0,))[0]
    assert nats == pytest.approx([expected[i].nats for i in range(COUNT)], rel=1e-4)
    assert np.abs(nats - sentence_nats(run, sentences, (1.0,))[0]).max() > 1e-3


@pytest.fixture(scope="module")
def plan(run, grid):
    return make_plan(run, read_grid(grid), Options())


def as_written(plan, continuations) -> list[WrittenText]:
    return [
        WrittenText(place, index, Text(tuple(tokens), "x" * len(tokens), "length", 0.0))
        for index, (place, tokens) in enumerate(zip(plan.places, continuations, strict=True))
    ]


def test_human_texts_as_a_setting_score_as_human(run, plan):
    human = as_written(plan, [place.human for place in plan.places])
    texts = {HUMAN: human, "copy": human, "other": human[::-1]}
    matched = scores.matched_texts(texts, plan.new_tokens)
    metrics = scores.merge(
        texts,
        scores.diversity_metrics(matched),
        scores.likelihood_metrics(run, plan, texts, 2, PassCosts()),
        scores.mauve_metrics(run, replace(plan, others=plan.places), texts, PassCosts()),
    )
    for name, found in metrics[HUMAN].items():
        assert metrics["copy"][name]["value"] == pytest.approx(found["value"], abs=1e-6), name
    assert metrics["copy"]["mauve"]["value"] == pytest.approx(1, abs=1e-6)
    compared = compare_with_human(matched, metrics)
    assert compared["distances"]["copy"] == 0 and gate_of(texts, "copy")["passed"]
    assert compared["recommended"]["setting"] == "copy"


def log_probabilities(run, texts) -> list[np.ndarray]:
    """log p of each token of texts behind those before it, from logits, in float64; all texts in rows of one length."""
    rows_BT = np.array([[*text, *[0] * (32 - len(text))] for text in texts])
    logits_BTV = run.logits(rows_BT).astype(np.float64)
    log_p_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
    return [log_p_TV[np.arange(len(text) - 1), text[1:]] for log_p_TV, text in zip(log_p_BTV, texts, strict=True)]


def test_perplexity_and_fit_to_the_prompt_are_those_of_the_logits(run, plan):
    """With all other prompts as wrong ones the mean does not depend on which are drawn."""
    random = np.random.default_rng(0)
    lengths = random.integers(0, plan.new_tokens, COUNT)  # texts that ended early, one of them at once
    lengths[0] = 0
    drawn = as_written(plan, [random.integers(0, 65, length).tolist() for length in lengths])
    human = as_written(plan, [place.human for place in plan.places])
    found = scores.likelihood_metrics(run, plan, {HUMAN: human, "drawn": drawn}, COUNT - 1, PassCosts())
    for name, own in ((HUMAN, human), ("drawn", drawn)):
        texts = [[*place.prompt, *text.text.tokens] for text, place in itertools.product(own, plan.places)]
        nats = np.array([-log_p[7:].sum() for log_p in log_probabilities(run, texts)]).reshape(COUNT, COUNT)
        tokens = sum(len(text.text.tokens) for text in own)
        right = np.trace(nats) / tokens
        wrong = (nats.sum() - np.trace(nats)) / (COUNT - 1) / tokens
        assert found[name]["perplexity"]["value"] == pytest.approx(np.exp(right), rel=1e-4)
        assert found[name]["prompt_ratio"]["value"] == pytest.approx(wrong - right, abs=1e-4)
    assert found[HUMAN]["prompt_ratio"]["value"] > 0.01


def test_features_are_hidden_states_at_the_last_token(run, plan):
    texts = as_written(plan, [place.human[: 3 + index] for index, place in enumerate(plan.places)])
    features = last_hidden_states(run, texts)
    hidden = jax.jit(lambda model, tokens: model.hidden(tokens))
    for text, feature in zip(texts, features, strict=True):
        whole = [*text.place.prompt, *text.text.tokens]
        hidden_TD = np.asarray(hidden(run.model, np.array([whole + [1] * (32 - len(whole))], np.int32)))[0]
        np.testing.assert_allclose(feature, hidden_TD[len(whole) - 1], atol=2e-5)


def test_the_judge_may_have_another_tokenizer(run, plan):
    """With the model itself as judge, read through texts, bits a byte are those of its nats."""
    human = [
        WrittenText(place, index, Text(place.human, run.tokenizer.decode(list(place.human)), "length", 0.0))
        for index, place in enumerate(plan.places)
    ]
    own = scores.likelihood_metrics(run, plan, {HUMAN: human}, 1, PassCosts())[HUMAN]["perplexity"]["value"]
    judge = copy.copy(run)
    judge.metadata = {"tokenizer": None}  # as if it were another
    found = scores.judge_metrics(judge, run, {HUMAN: human}, PassCosts())[HUMAN]["judge_bits_per_byte"]["value"]
    assert found == pytest.approx(np.log2(own), rel=1e-5)  # a character of the corpus is a byte


def test_a_judge_that_cannot_read_so_much_is_refused_before_and_left_out_after(run, plan):
    judge, lines = copy.copy(run), []
    judge.trained_length = 8
    with pytest.raises(ConfigError, match=r"--judge .*: 24 tokens of it .* trained on 8 at a time"):
        check_judge(judge, run, plan.places)
    check_judge(run, run, plan.places)
    scorer = SimpleNamespace(run=run, judge=judge, costs=PassCosts(), report=lines.append)
    human = as_written(plan, [place.human for place in plan.places])
    assert TextScorer.with_judge(scorer, {HUMAN: human}) == {} and "left out" in lines[0]
    scorer.judge = run
    assert TextScorer.with_judge(scorer, {HUMAN: human})[HUMAN].keys() == {"judge_bits_per_byte"}


def test_places_do_not_overlap_and_fewer_are_the_first_of_more():
    tokens = np.arange(1000, dtype=np.int32)
    offsets = np.array([0, 5, 130, 131, 131, 600, 1000])
    documents = Documents(tokens, offsets, np.diff(offsets), ended=True)
    text = ScoredText("text", documents, 1000)
    tokenizer = SimpleNamespace(start_id=None, start_prompts=False)
    places = draw_places([text, text._replace(name="again")], tokenizer, 60, 6, 14, seed=3)
    for name in ("text", "again"):
        used = [token for place in places if place.source == name for token in (*place.prompt, *place.human)]
        assert len(used) == len(set(used)) and not set(used) & (set(offsets - 1) - {-1})
    for place in places:
        whole = [*place.prompt, *place.human]
        start, stop = offsets[place.document : place.document + 2]
        assert whole == list(range(whole[0], whole[0] + 20)) and start <= whole[0] and whole[-1] < stop - 1
    assert draw_places([text, text._replace(name="again")], tokenizer, 9, 6, 14, seed=3) == places[:9]
    assert draw_places([text, text._replace(name="again")], tokenizer, 9, 6, 14, seed=4) != places[:9]


def test_the_front_holds_what_no_other_setting_beats():
    random = np.random.default_rng(0)
    for _ in range(200):
        quality, diversity = random.integers(0, 5, (2, 8)).astype(float)
        quality[random.random(8) < 0.2] = np.nan
        points = list(zip(quality, diversity, strict=True))
        expected = {
            i
            for i, (q, d) in enumerate(points)
            if not np.isnan(q) and not any(a >= q and b >= d and (a > q or b > d) for a, b in points)
        }
        assert set(pareto_front(quality, diversity)) == expected


def test_a_chart_has_every_point_and_fits_into_eighty_columns():
    random = np.random.default_rng(1)
    points = [Point(str(i), *random.random(2), i % 3 == 0) for i in range(1, 26)] + [Point("H", 0.5, 0.5)]
    lines = draw_chart(points, Axis("diversity", True), Axis("quality", log=True))
    assert max(map(len, lines)) <= 80 and all(line.isascii() for line in lines)
    marks = " ".join(line.partition("|")[2] for line in lines).split()
    assert sorted(marks) == sorted(point.mark for point in points)
    corners = [Point("1", 0.0, 1.0), Point("2", 1.0, 0.0)]
    lines = draw_chart(corners, Axis("x"), Axis("y"))
    rows = [number for number, line in enumerate(lines) if "|" in line and line.partition("|")[2].strip()]
    assert lines[rows[0]].partition("|")[2].strip() == "1" and lines[rows[1]].rstrip().endswith("2")
    assert draw_chart([Point("1", 1.0, np.nan)], Axis("x"), Axis("y")) == []
    assert draw_chart([Point("1", 1.0, 2.0)], Axis("x"), Axis("y"))


@pytest.fixture
def measured_copy(measured, tmp_path):
    """A run whose texts are all written."""
    return shutil.copytree(measured[1], tmp_path / "run")


def test_a_stored_sampler_is_the_default_until_it_is_forgotten(skald, measured_copy, grid):
    status, out, err = skald("quality", measured_copy, "--grid", grid, "--store", "--no-novelty")
    assert status == 0 and "the default sampler is" in err, err
    assert max(len(line) for line in out.splitlines() if str(measured_copy) not in line) <= 80
    stored = load(str(measured_copy)).sampler
    assert repr(stored) in err and stored == measured_result(measured_copy)["recommended"]["setting"]
    _, _, err = skald("generate", measured_copy, "--prompt", "ROMEO:", "--max-new-tokens", 4)
    assert f"[{stored} (stored by skald quality), seed 0]" in err
    forgotten = skald.json("quality", measured_copy, "--forget")
    assert forgotten["forgotten"] == stored and forgotten["sampler"] == SETTINGS[-1]
    assert load(str(measured_copy)).sampler == SETTINGS[-1] and not (measured_copy / "samplers.json").exists()
    assert "no sampler was stored" in skald("quality", measured_copy, "--forget")[1]


def measured_result(folder, name: str = "quality.json") -> dict:
    (file,) = folder.glob(f"quality/*/{name}")
    return json.loads(file.read_text())


def test_a_stored_sampler_belongs_to_one_checkpoint(tmp_path):
    store_sampler(tmp_path, 40, "a", "greedy")
    store_sampler(tmp_path, 20, "b", "top_k=5")
    assert stored_sampler(tmp_path, 40, "a") == "greedy" and stored_sampler(tmp_path, 40, "trained anew") is None
    assert forget_sampler(tmp_path, 20, "b") == "top_k=5" and stored_sampler(tmp_path, 40, "a") == "greedy"
    assert forget_sampler(tmp_path, 20, "b") is None
    assert forget_sampler(tmp_path, 40, "trained anew") is None and not (tmp_path / "samplers.json").exists()


def test_the_gate_ends_with_status_1_where_texts_are_not_like_human_ones(skald, measured_copy):
    store_sampler(measured_copy, 40, load(str(measured_copy)).digest, "greedy")
    sizes = ["--prompts", COUNT, "--prompt-tokens", 8, "--new-tokens", 24, "--no-novelty"]
    before = measured_result(measured_copy)
    status, out, err = skald("quality", measured_copy, "--gate", *sizes)
    assert status == 1, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("skald: ") and "greedy: left the interval" in last and "rep_16" in last
    result = measured_result(measured_copy, "gate.json")
    assert [one["setting"] for one in result["settings"]] == [HUMAN, "greedy"] and not result["gate"]["passed"]
    assert measured_result(measured_copy) == before and "greedy" in out


def test_grids_that_ship_give_each_kind_the_same_number_of_settings():
    for file in SHIPPED.glob("*.toml"):
        grid = read_grid(file)
        assert len(set(grid.budgets.values())) == 1
    grid = read_grid(SHIPPED / "default.toml")
    assert (len(grid.settings) + 1) * grid.prompts == 2000


def test_what_is_wrong_is_said_in_a_line(skald, trained_run, tmp_path):
    grids = {
        "typo": (GRID.replace("new_tokens", "newtokens"), ["no 'newtokens'", "did you mean 'new_tokens'"]),
        "missing": (GRID.replace("prompts = 23\n", ""), ["prompts is missing", "whole number"]),
        "chain": (GRID.replace("beam=2", "bean=2"), ["no link 'bean'", "did you mean 'beam'"]),
        "twice": (GRID.replace("temperature=0.7", "temperature=1"), ["temperature", "stands twice"]),
        "list": (GRID.replace('["greedy", "beam=2"]', '"greedy"'), ["deterministic", "a list of chains"]),
        "none": ("prompts = 8\nprompt_tokens = 8\nnew_tokens = 8\n", ["no samplers", "[samplers]"]),
        "toml": ("prompts =", ["no grid can be read"]),
    }
    cases = []
    for name, (text, parts) in grids.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        cases.append((["--grid", file], 2, [str(file), *parts]))
    (tmp_path / "short.txt").write_text("To be, or not to be: that is the question.\n")
    cases += [
        (["--grid", tmp_path / "nothere.toml"], 2, ["nothere.toml", "No such file"]),
        (["--quick", "--prompts", 100_000], 1, ["100000 prompts", "there is room for", "--prompts"]),
        (["--quick", "--prompts", 22], 2, ["--prompts 22", "fewer than 23"]),
        (["--quick", "--text", tmp_path / "short.txt"], 1, ["short.txt", "room for 1"]),
        (["--quick", "--new-tokens", 40], 2, ["40 more", "trained on 32"]),
        (["--quick", "--prompt-tokens", 40], 2, ["prompts of 40 tokens with 1 more", "trained on 32"]),
        (["--quick", "--judge", tmp_path / "norun"], 2, ["norun: no such folder"]),
        (["--quick", "--shuffles", 24], 2, ["--shuffles 24", "1 to 23"]),
        (["--quick", "--toxic-words", tmp_path / "nowords.txt"], 1, ["nowords.txt: can't be read"]),
        (["--quick", "--crows-pairs", tmp_path / "short.txt"], 1, ["skald: ", "short.txt: no column 'sent_more'"]),
    ]
    results = skald.run_many([["quality", trained_run, *arguments] for arguments, _, _ in cases])
    for (arguments, expected, parts), (status, out, err) in zip(cases, results, strict=True):
        last = err.strip().splitlines()[-1]
        assert status == expected and not out and last.startswith("skald: "), (arguments, err)
        assert all(part in last for part in parts), last
        assert "texts, " not in err and "Error" not in last, err  # nothing is written, and no class is named
