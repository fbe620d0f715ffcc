"""Splits: which documents and how many bytes of text are on each side, and texts that are on both."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gpt2_bpe import corpora

from data.config import Data, Mixture, Part, Source, Span
from data.config import Tokenizer as Config
from data.documents import Documents
from data.errors import DataError
from data.pipeline import open_pipeline
from data.splits import open_splits, text_bytes, whole_character
from data.store.store import open_store
from data.tokenizers.byte_level import Bytes
from data.tokenizers.tokenizer import build_tokenizer

CHARACTERS = "abc déß—🙂東\n"


def written(folder: Path, texts: list, name: str = "a.jsonl") -> Source:
    folder.mkdir(exist_ok=True, parents=True)
    records = (text if isinstance(text, dict) else {"text": text} for text in texts)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return Source(str(folder / name))


def open_sides(folder: Path, source, tokenizer=None, said: list | None = None, **fields):
    """The training and the validation splits of a source, under bytes."""
    config = Data(source, Config("bytes"), 4, **fields)
    return open_splits(config, tokenizer or Bytes(), folder / "cache", (said if said is not None else []).append)


def texts_of(split, tokenizer=None) -> list[str]:
    bounds = split.documents.bounds(np.arange(len(split.documents)))
    read = [split.documents.tokens[a:b].tolist() for a, b in zip(bounds.starts, bounds.stops, strict=True)]
    return [(tokenizer or Bytes()).decode(ids) for ids in read]


def numbered(count: int) -> list[str]:
    return [f"{i} " + "x" * (i * 7919 % 90) for i in range(count)]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    written(folder, numbered(10_000))
    return folder


# By hash


def test_by_hash_both_sides_are_everything_and_have_no_document_in_common(many):
    (training,), (validation,) = open_sides(many, Source(str(many / "a.jsonl")))
    sides = texts_of(training), texts_of(validation)
    assert sorted(sides[0] + sides[1]) == sorted(numbered(10_000)) and not {*sides[0]} & {*sides[1]}


@pytest.mark.parametrize("share", [0.1, 0.01, 0.5])
def test_by_hash_the_share_of_tokens_is_near_what_is_asked(many, share):
    """Within four standard deviations of a sum over independent choices."""
    spans = {"train": Span(0.0, 1 - share), "validation": Span(1 - share, 1.0)}
    (training,), (validation,) = open_sides(many, Source(str(many / "a.jsonl")), **spans)
    lengths = np.array([len(text) for text in numbered(10_000)], float)
    deviation = np.sqrt(share * (1 - share) * (lengths**2).sum())
    found = sum(map(len, texts_of(validation)))
    assert abs(found - share * lengths.sum()) < 4 * deviation
    assert found + sum(map(len, texts_of(training))) == lengths.sum()


def test_by_hash_a_document_stays_on_its_side_wherever_it_stands(tmp_path):
    """In another order, in other files, with other documents beside it, under another tokenizer."""
    texts = [text.replace("x", "é") for text in numbered(400)]
    sources = {"one": written(tmp_path / "one", texts)}
    written(tmp_path / "two", texts[:150:-1], "z.jsonl")
    written(tmp_path / "two", texts[150::-1], "a.jsonl")
    sources["two"] = Source(str(tmp_path / "two"))
    sources["more"] = written(tmp_path / "more", numbered(900)[500:] + texts)
    characters = build_tokenizer(Config("characters"), [sources["more"]])
    sides = {}
    for (name, source), tokenizer in itertools.product(sources.items(), (Bytes(), characters)):
        (training,), (validation,) = open_sides(tmp_path, source, tokenizer)
        sides[name, tokenizer] = [{*texts_of(split, tokenizer)} & {*texts} for split in (training, validation)]
    assert all(found == sides["one", characters] for found in sides.values())
    assert sides["one", characters][0] | sides["one", characters][1] == {*texts}
    assert 15 < len(sides["one", characters][1]) < 70


def test_pieces_are_parted_in_a_documents_hash(tmp_path):
    """'a' before 'b1c' and 'a1b' before 'c' are two documents."""
    pairs = [{"q": "a", "text": "b1c"}, {"q": "a1b", "text": "c"}, {"q": "", "text": "a1b1c"}]
    source = replace(written(tmp_path, pairs), prompt="q")
    assert len(set(open_store(source, Bytes(), tmp_path / "cache").hashes.tolist())) == 3


# By position


def test_by_position_both_sides_are_everything_in_order(tmp_path):
    texts = numbered(50)
    (training,), (validation,) = open_sides(tmp_path, written(tmp_path, texts), split="position")
    assert "".join(texts_of(training) + texts_of(validation)) == "".join(texts)
    assert abs(len("".join(texts_of(validation))) - 0.1 * len("".join(texts))) < 2


def test_a_single_document_is_split_by_position(tmp_path):
    said = []
    (training,), (validation,) = open_sides(tmp_path, written(tmp_path, ["0123456789" * 10]), said=said)
    assert texts_of(training) == ["0123456789" * 9] and texts_of(validation) == ["0123456789"]
    assert len(said) == 1 and "tokenizing" in said[0]


def test_few_documents_are_split_by_position_and_a_line_says_so(tmp_path):
    said = []
    source = written(tmp_path, ["one document"] * 2)  # by their hash they are on one side
    (training,), (validation,) = open_sides(tmp_path, source, said=said)
    assert "".join(texts_of(training) + texts_of(validation)) == "one document" * 2
    too_few = "2 documents are too few to be split by document; they are split by position, and one at a border is cut"
    assert f"{source.path}: {too_few}" in said


def test_documents_that_are_all_of_one_side_are_never_too_few(tmp_path):
    """Validation has a source of its own: nothing is split."""
    said = []
    other = written(tmp_path, ["a text to score"], "b.jsonl")
    spans = {"validation": Span(0.9999, 1.0)}
    training, validation = open_sides(
        tmp_path, written(tmp_path, ["one", "two"]), said=said, validation_source=other, **spans
    )
    assert texts_of(training[0]) == ["one", "two"] and training[0].is_by_hash
    assert len(validation) == 1 and not [line for line in said if "too few" in line]


@settings(deadline=None)
@given(st.lists(st.text(CHARACTERS, min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_no_place_in_any_text_cuts_a_character(texts, data):
    joined = "".join(texts)
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    documents = Documents(np.array(list(joined.encode()), np.uint16), offsets, np.diff(offsets), ended=False)
    borders = np.cumsum([0, *(len(character.encode()) for character in joined)])
    place = data.draw(st.integers(0, int(borders[-1])))
    assert whole_character(documents, place, Bytes()) == borders[np.searchsorted(borders, place)]


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    """Small tokenizers of every kind, trained here, and GPT-2's."""
    folder = tmp_path_factory.mktemp("tokenizers")
    text = "the cat and the hat: déjà vu, 東京 🙂 — a straße\n" * 60
    (folder / "text.txt").write_text(text)

    def build(kind: str):
        config = Config(kind)
        if kind == "gpt2":
            config = Config("gpt2", str(corpora() / "gpt2_bpe"))
        if kind == "sentencepiece":
            options = {"vocab_size": 300, "byte_fallback": True, "model_type": "bpe", "character_coverage": 0.98}
            exact = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
            prefix, input_ = str(folder / "pieces"), str(folder / "text.txt")
            sentencepiece.SentencePieceTrainer.train(
                input=input_, model_prefix=prefix, minloglevel=2, **options, **exact
            )
            config = Config("sentencepiece", f"{prefix}.model")
        if kind == "json":
            made = tokenizers.Tokenizer(tokenizers.models.BPE())
            made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = tokenizers.decoders.ByteLevel()
            trainer = tokenizers.trainers.BpeTrainer(
                vocab_size=300, initial_alphabet=made.pre_tokenizer.alphabet(), special_tokens=["<|endoftext|>"]
            )
            made.train([str(folder / "text.txt")], trainer)
            made.save(str(folder / "tokenizer.json"))
            config = Config("json", str(folder / "tokenizer.json"))
        return build_tokenizer(config, [Source(str(folder / "text.txt"))])

    return build


@pytest.mark.parametrize("kind", ["bytes", "characters", "gpt2", "sentencepiece", "json"])
def test_the_bytes_of_both_sides_are_those_of_the_text(tmp_path, tokenizer_of, kind):
    """All but those of the tokens that nothing predicts; and no side has a part of a character."""
    tokenizer = tokenizer_of(kind)
    text = "déjà vu: the cat, 東京 🙂🙂 — a straße and é 🙂"
    source = written(tmp_path, [text])
    tokens = open_store(source, tokenizer, tmp_path / "cache").documents.tokens[:].tolist()
    cuts = set()

    def decoded(ids: list[int]) -> str:
        return tokenizer.decode(ids).replace("<|endoftext|>", "")

    for share in np.linspace(0.05, 0.95, 31):
        spans = {"train": Span(0.0, share), "validation": Span(share, 1.0)}
        sides = [split.documents for (split,) in open_sides(tmp_path, source, tokenizer, split="position", **spans)]
        cuts.add(cut := sides[0].last)
        assert sides[0].first == 0 and sides[1].first == cut and sides[1].last == len(tokens)
        parts = tokens[:cut], tokens[cut:]
        assert "\ufffd" not in decoded(parts[0]) + decoded(parts[1])
        unpredicted = sum(len(decoded(part[:1]).encode()) for part in parts)
        found = sum(text_bytes(documents, tokenizer) for documents in sides)
        assert len(text.encode()) - unpredicted - 1 <= found <= len(text.encode())  # 1: a space before a cut word
    assert len(cuts) > 10


def test_under_bytes_the_bytes_of_each_side_are_exact(tmp_path):
    """A character whose first byte is the first token counts whole: it belongs to its last byte."""
    text = "é東🙂a" * 6
    source = written(tmp_path, [text])
    for share in np.linspace(0.1, 0.9, 25):
        fields = {"train": Span(0.0, share), "validation": Span(share, 1.0)}
        for (split,) in open_sides(tmp_path, source, split="position", **fields):
            side = texts_of(split)[0]
            assert text_bytes(split.documents, Bytes()) == len(side.encode()) - (side[:1] == "a")


@pytest.mark.parametrize("share", np.linspace(0.05, 0.95, 13))
def test_of_a_pair_that_is_cut_the_response_counts_and_the_prompt_does_not(tmp_path, share):
    source = replace(written(tmp_path, [{"q": "a prompt ", "text": "a response"}]), prompt="q")
    fields = {"train": Span(0.0, share), "validation": Span(share, 1.0)}
    sides = [split for (split,) in open_sides(tmp_path, source, split="position", **fields)]
    for split in sides:
        documents = split.documents
        places = np.arange(documents.first + 1, documents.last)
        read = documents.tokens[:][places][documents.counts(places)].tolist()
        assert text_bytes(documents, Bytes()) == len(read)


# Texts on both sides


def test_texts_on_both_sides_are_counted_and_left_out_where_the_config_says_so(tmp_path):
    texts = [f"a text of number {i}" for i in range(20)]
    source = written(tmp_path, [*texts, *texts[:3]])
    other = written(tmp_path, [*texts[4:9], "elsewhere"], "b.jsonl")
    for fields, doubled in (({"validation_source": other}, texts[4:9]), ({"split": "position"}, texts[1:3])):
        for drop in (False, True):
            said = []
            (training,), _ = open_sides(tmp_path, source, said=said, drop_duplicates=drop, **fields)
            kept = [text for text in texts_of(training) if text in doubled]
            assert bool(kept) != drop
            count = sum(text in doubled for text in [*texts, *texts[:3]][: len(training.documents) + drop * 99])
            assert "data.drop_duplicates=true" in said[-1] or (drop and "left out of training" in said[-1])
            assert said[-1].startswith(f"{len(doubled)} of ") and count
            assert {*texts_of(training)} >= {*texts} - {*doubled} - {texts[-1], texts[0]}


def test_in_a_mixture_a_text_of_one_sources_validation_is_found_in_anothers_training(tmp_path):
    """One source is split by hash; the other has too few documents for that."""
    texts = [f"a text of number {i}" for i in range(200)]
    source = written(tmp_path, texts)
    (_, (validation,)) = open_sides(tmp_path, source)
    twice = texts_of(validation)[0]
    few = written(tmp_path, [twice, twice], "few.jsonl")  # by their hash both are validation
    mixture = Mixture((Part(source), Part(few)))
    said = []
    training, _ = open_sides(tmp_path, mixture, said=said)
    assert twice in texts_of(training[1])
    assert said[-1].startswith("1 of 2 documents of few.jsonl are in validation, too")
    training, _ = open_sides(tmp_path, mixture, drop_duplicates=True)
    assert twice not in texts_of(training[1]) and len(training[0].documents) + len(validation.documents) == 200


def test_a_side_without_a_document_is_refused_in_one_line(tmp_path):
    source = written(tmp_path, ["0123456789", "0123456789"])
    config = Data(source, Config("bytes"), 2, split="position", train=Span(0.0, 0.5), validation=Span(0.5, 0.52))
    with pytest.raises(DataError, match=r"a.jsonl, data.validation: nothing to score"):
        open_pipeline(config, 1, 0, tmp_path / "cache")


def test_documents_without_a_target_are_counted_and_reported(tmp_path):
    texts = [*numbered(40), "", "a", "", "é"]
    said = []
    fields = {"train": Span(0.0, 1.0), "validation": Span(0.0, 1.0)}
    open_pipeline(
        Data(written(tmp_path, texts), Config("bytes"), 4, **fields), 4, 0, tmp_path / "cache", None, said.append
    )
    assert f"{tmp_path / 'a.jsonl'}: 3 of 44 documents have nothing to predict" in said
