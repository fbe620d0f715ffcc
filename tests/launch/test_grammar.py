"""Grammars with real tokenizers: every finished text is as its regular expression or schema says, or it is refused."""

import datetime
import io
import itertools
import json
import re
from pathlib import Path

import jax
import jsonschema
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data.config import Tokenizer as Config
from data.tokenizers import gpt2_bpe, huggingface_json, sentencepiece_model
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.token_ids import TokenIds
from launch.inference.grammar import check_grammar, new_matcher
from launch.inference.json_schema import read_schema_files
from launch.inference.text import TextGenerator
from model import config as c
from model.decode.chain import SamplerError, parse_chain
from model.decode.links.constraint import JsonSchema, Regex
from model.transformer import Transformer

pytest.importorskip("llguidance", reason="the optional package llguidance (skald[grammar]) is not installed")
pytestmark = pytest.mark.timeout(120)
CORPUS = (Path(__file__).parents[2] / "data" / "corpora" / "tinyshakespeare.txt").read_text()[:60_000]
CHARACTERS = Characters.from_texts(["".join(map(chr, range(32, 127))) + "\nàéöü√😀"])
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
        "pets": {"type": "array", "items": {"enum": ["cat", "dög", None]}, "maxItems": 3},
    },
    "required": ["name", "born"],
    "additionalProperties": False,
}


def trained_sentencepiece() -> sentencepiece_model.SentencePiece:
    """A small model with a space in front of every text, and bytes for what it does not know."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()), model_writer=model, vocab_size=500, model_type="bpe",
        byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    tokens = sentencepiece_model.SpecialTokens(1, 2, True)
    return sentencepiece_model.SentencePiece(model.getvalue(), tokens)


def trained_json(path: Path) -> huggingface_json.HuggingFace:
    """A small byte-level BPE with a special token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    tokenizer.save(str(path))
    return huggingface_json.load(Config("json", str(path)))


@pytest.fixture(scope="module")
def gpt2(corpora):
    return gpt2_bpe.load(Config("gpt2", str(corpora / "gpt2_bpe")))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return {
        "bytes": Bytes(),
        "characters": CHARACTERS,
        "sentencepiece": trained_sentencepiece(),
        "json": trained_json(tmp_path_factory.mktemp("json") / "tokenizer.json"),
    }


@pytest.fixture(params=["bytes", "characters", "sentencepiece", "json", "gpt2"])
def tokenizer(request, built):
    return request.getfixturevalue("gpt2") if request.param == "gpt2" else built[request.param]


def allowed_ids(matcher, vocab_size: int) -> list[int]:
    return np.flatnonzero(np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")[:vocab_size]).tolist()


def write(tokenizer, grammar, seed: int, limit: int = 400) -> tuple[str, bool]:
    """A text drawn evenly among the tokens that are allowed, with the tokenizer's end; and whether it is finished."""
    generator, stops = np.random.default_rng(seed), [tokenizer.end_id] if tokenizer.end_id is not None else []
    prompt = tokenizer.encode("a")
    matcher, ids = new_matcher(tokenizer, grammar, prompt, stops), []
    while not matcher.finished and len(ids) < limit:
        allowed = allowed_ids(matcher, tokenizer.vocab_size)
        assert allowed, f"no way on from {tokenizer.decode(ids)!r}"
        token = allowed[generator.integers(len(allowed))]
        if token in stops:
            return tokenizer.decode(prompt + ids)[1:], True
        matcher.accept(token)
        ids.append(token)
    return tokenizer.decode(prompt + ids)[1:], matcher.finished


# Tokens


@pytest.mark.parametrize("text", ["Ho! the sea,  \n\n it's 42 miles", 'né "√😀" {', " a b"])
def test_the_bytes_of_tokens_are_those_of_their_text(tokenizer, text):
    spelled = tokenizer.token_bytes()
    assert len(spelled) == tokenizer.vocab_size
    ids = tokenizer.encode("a" + text)
    assert b"".join(spelled[id_] for id_ in ids).decode().removeprefix(" ")[1:] == tokenizer.decode(ids)[1:]
    assert all(spelled[id_] is None for id_ in {tokenizer.start_id, tokenizer.end_id} - {None})


def test_a_token_that_its_decoder_changes_is_not_used(tmp_path):
    """WordPiece puts a space in front of all but the tokens with ##."""
    vocabulary = {token: id_ for id_, token in enumerate(["[UNK]", "a", "sea", "##s", "{"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    read = huggingface_json.load(Config("json", str(tmp_path / "tokenizer.json")))
    assert not any(read.token_bytes())
    for odd in (read, TokenIds(9, huggingface_json.SpecialTokens(None, None, False))):
        with pytest.raises(SamplerError, match="whose tokens are pieces of text"):
            check_grammar(odd, parse_chain("json"))


@pytest.mark.parametrize("pattern", ["(?:ante|an|é| the){1,2}", "[ab]{2,4}😀?", "(?:ab){0,2}c"])
def test_a_mask_holds_every_token_that_a_matching_text_may_go_on_with(gpt2, pattern):
    """Against enumeration: every text of the language up to a length, and Python's own matching."""
    pieces = ["ante", "an", "é", " the", "a", "b", "c", "😀"]
    texts = {"".join(parts) for count in range(7) for parts in itertools.product(pieces[4:], repeat=count)}
    texts |= {"".join(parts) for count in range(3) for parts in itertools.product(pieces[:4], repeat=count)}
    texts = [text.encode() for text in texts if re.fullmatch(pattern, text)]
    spelled, generator = gpt2.token_bytes(), np.random.default_rng(0)
    for _ in range(5):
        matcher, written = new_matcher(gpt2, Regex(pattern), [5], []), b""
        for _ in range(3):
            rests = {text[len(written) :] for text in texts if text.startswith(written)}
            starts = {rest[:count] for rest in rests for count in range(1, len(rest) + 1)}
            expected = [id_ for id_, token in enumerate(spelled) if token in starts]
            assert allowed_ids(matcher, gpt2.vocab_size) == expected
            if not expected:
                break
            token = expected[generator.integers(len(expected))]
            matcher.accept(token)
            written += spelled[token]


def test_characters_of_several_tokens_are_written_whole(gpt2, built):
    for tokenizer in (gpt2, built["sentencepiece"], built["json"], Bytes()):
        for seed in range(5):
            text, finished = write(tokenizer, Regex("[√😀学]{3}"), seed)
            assert finished and re.fullmatch("[√😀学]{3}", text)


def test_a_first_space_that_decoding_leaves_out_is_not_drawn(built):
    """Behind nothing but a start token a SentencePiece text loses its first space, and would match no more."""
    tokenizer = built["sentencepiece"]
    for prompt, expected in (([1], False), ([1, *tokenizer.encode("a")], True)):
        matcher = new_matcher(tokenizer, Regex(" ?[a-z]"), prompt, [2])
        spelled = [tokenizer.token_bytes()[id_] for id_ in allowed_ids(matcher, tokenizer.vocab_size)]
        assert any(token.startswith(b" ") for token in spelled) == expected and b"a" in spelled


# Texts


@pytest.mark.parametrize(
    "pattern",
    [
        "[0-9]{4}-[0-9]{2}",
        r"(?:\+\d{1,3} )?\d{3,6}",
        r"[^\W\d_]{2,5}(?:, [a-z]+){0,2}!",
        r"^(?:yes|no|n/a)$",
        r"\S\s\S",
    ],
)
def test_a_finished_text_matches_its_regular_expression(tokenizer, pattern):
    finished = 0
    for seed in range(12):
        text, complete = write(tokenizer, Regex(pattern), seed, limit=60)
        finished += complete
        assert not complete or re.fullmatch(pattern, text, re.ASCII), text
    assert finished


def test_a_finished_text_is_json_that_its_schema_allows(tokenizer):
    finished = 0
    for seed in range(12):
        text, complete = write(tokenizer, JsonSchema(PERSON), seed)
        if complete:
            finished += 1
            value = json.loads(text)
            jsonschema.validate(value, PERSON)
            assert datetime.date.fromisoformat(value["born"])
    assert finished


NAMES = st.sampled_from(["a", "b\n", "ü", 'q"', "long name"])
LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.just("integer")}, optional={
        "minimum": st.integers(-50, 0), "maximum": st.integers(1, 300), "multipleOf": st.integers(1, 4)}),
    st.fixed_dictionaries({"type": st.just("number"), "exclusiveMinimum": st.integers(-3, 0),
        "exclusiveMaximum": st.floats(0.5, 9)}),
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(2, 6)}, optional={
        "minLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"type": st.just("string"), "pattern": st.sampled_from(["^[a-f]{1,3}$", "^x|y{2}$"]),
        "maxLength": st.just(8)}),
    st.sampled_from([{"type": "boolean"}, {"type": ["null", "boolean"]}, {"const": {"k": [1, "é"]}},
        {"enum": [1, "two", None]}, {"type": "string", "format": "date-time"}, {"type": "string", "format": "ipv4"},
        {"type": "string", "format": "uuid"}, {"type": "string", "format": "time"}]),
)  # fmt: skip


def containers(inner):
    """Arrays, objects and choices of schemas."""
    properties = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    objects = properties.flatmap(lambda named: st.fixed_dictionaries({
        "type": st.just("object"), "properties": st.just(named), "maxProperties": st.just(len(named)),
        "required": st.just(list(named)), "additionalProperties": st.one_of(st.booleans(), inner)}))  # fmt: skip
    optional = properties.flatmap(lambda named: st.fixed_dictionaries({
        "type": st.just("object"), "properties": st.just(named), "additionalProperties": st.just(False),
        "required": st.lists(st.sampled_from(list(named)), unique=True)}))  # fmt: skip
    arrays = st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(1, 3)}, optional={
        "minItems": st.integers(0, 1), "prefixItems": st.lists(inner, min_size=1, max_size=2)})  # fmt: skip
    choices = st.lists(inner, min_size=1, max_size=2).map(lambda schemas: {"anyOf": schemas})
    return st.one_of(objects, optional, arrays, choices)


@given(st.recursive(LEAVES, containers, max_leaves=5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_whatever_the_schema_a_finished_text_obeys_it(schema, seed):
    tokenizer = CHARACTERS
    schema = {"$defs": {"one": schema}, "$ref": "#/$defs/one"} if seed % 3 == 0 else schema
    formats = jsonschema.FormatChecker(["ipv4", "uuid"])

    def check(name, is_one):  # a format says nothing of what is no text
        formats.checks(name, ValueError)(lambda value: not isinstance(value, str) or is_one(value))

    check("date-time", datetime.datetime.fromisoformat)
    check("time", lambda time: datetime.time.fromisoformat(time).tzinfo)
    checker = jsonschema.Draft202012Validator(schema, format_checker=formats)
    texts = [
        text for offset in range(3) for text, done in [write(tokenizer, JsonSchema(schema), seed + offset)] if done
    ]
    assume(texts)
    for text in texts:
        checker.validate(json.loads(text))


def test_the_days_of_a_date_are_those_of_the_calendar():
    def accepts(text):
        matcher = new_matcher(Bytes(), JsonSchema({"type": "string", "format": "date"}), [5], [])
        for byte in f'"{text}"'.encode():
            if byte not in allowed_ids(matcher, 256):
                return False
            matcher.accept(byte)
        return matcher.finished

    def is_date(text):
        try:
            return bool(datetime.date.fromisoformat(text))
        except ValueError:
            return False

    days = [f"{year:04}-{month:02}-{day:02}" for year in (0, 4, 1900, 2000, 2023, 2024) for month in (0, 2, 4, 12, 13)
            for day in (0, 1, 28, 29, 30, 31, 32)]  # fmt: skip
    assert [day for day in days if accepts(day) != is_date(day)] == []


@pytest.mark.parametrize(
    "schema, text",
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, r'{"\u0061":"x"}'),
        ({"type": "number", "exclusiveMaximum": 1}, "0.99999999999999999999"),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 400 + "1"),
        ({"type": "array"}, "[  1]"),
        ({"type": "string"}, r'"\ud83d"'),
    ],
)
def test_a_text_that_a_reader_would_find_in_breach_is_not_allowed(schema, text):
    matcher = new_matcher(Bytes(), JsonSchema(schema), [5], [])
    for byte in text.encode():
        if byte not in allowed_ids(matcher, 256):
            return
        matcher.accept(byte)
    raise AssertionError(f"{text} is allowed")


# The decoder


def writer(tokenizer, context: int = 64) -> TextGenerator:
    block = c.Block(c.Attention(2, 2, 4, rope=c.Rope()), c.MLP(16, gated=True))
    config = c.Model(tokenizer.vocab_size, 8, context, (c.Stack((block,), 1),), init=c.Init(embedding=1, residual=0.3))
    return TextGenerator(jax.jit(lambda: Transformer(config, jax.random.key(0)))(), tokenizer, context)


def test_a_random_model_writes_json_in_batches_as_alone_and_past_its_context(built):
    """Its context is 16 tokens: most texts outgrow it."""
    tokenizer, schema = built["json"], {**PERSON, "required": ["name", "born", "pets"]}
    schema["properties"] = {name: schema["properties"][name] for name in schema["required"]}  # numbers may be long
    generator, sampler = writer(tokenizer, context=16), f"json_schema={json.dumps(schema)},temperature=3"
    request = {"max_new_tokens": 150, "seed": 3}
    free = [text.text for text in generator.generate(["ROMEO:"], sampler="temperature=0.9", **request)]
    texts = generator.generate(["ROMEO:", "Exit, pur"], sampler=sampler, samples=2, **request)
    finished = [text for text in texts if text.finish_reason == "stop"]
    assert finished and any(len(text.completion.tokens) > 16 for text in finished)
    for text in finished:
        jsonschema.validate(json.loads(text.text), schema)
    alone = generator.generate(["Exit, pur"], sampler=sampler, samples=2, **request)
    assert [text.text for text in alone] == [text.text for text in texts[2:]]
    assert free == [text.text for text in generator.generate(["ROMEO:"], sampler="temperature=0.9", **request)]


# The door


@pytest.mark.parametrize(
    "schema, parts",
    [
        ({"type": "array", "uniqueItems": True}, ["#: 'uniqueItems' is not supported"]),
        ({"properties": {"a": {"not": {}}}}, ["#/properties/a: 'not'"]),
        ({"type": "string", "minLenght": 3}, ["'minLenght'", "did you mean 'minLength'?"]),
        ({"if": {}, "then": {}}, ["'if'"]),
        ({"type": "string", "format": "hostname"}, ["'hostname'", "date-time", "or a pattern"]),
        ({"type": "string", "pattern": "a(?=b)"}, ["pattern '(?=", "not supported"]),
        ({"type": "string", "pattern": "a++"}, ["'++'"]),
        ({"type": "string", "pattern": "("}, ["'(' is not a 'regex'"]),
        ({"patternProperties": {r"\bx": {}}}, [r"'\\b'"]),
        ({"type": "number", "multipleOf": 0.1}, ["multipleOf is 0.1", "whole number"]),
        ({"type": "integer", "maximum": 10**30}, ["maximum is 1000", "up to"]),
        ({"minProperties": 2}, ["minProperties", "required"]),
        ({"$ref": "http://x.org/y"}, ["stays within"]),
        ({"$ref": "#/$defs/y"}, ["can't be compiled", "/$defs/y"]),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["can't be compiled", "oneOf"]),
        ({"items": [{"type": "integer"}]}, ["#/items", "Draft 2020-12"]),
        ({"type": "strin"}, ["#/type", "'strin'"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ["$schema", "draft-07", "2020-12"]),
        ({"type": "array", "x-guidance": {"lenient": True}}, ["'x-guidance'"]),
        (False, ["schema false"]),
        ({"type": "integer", "minimum": 5, "maximum": 4}, ["can't be compiled", "minimum (5)"]),
    ],
)
def test_a_schema_that_can_not_be_kept_is_refused_in_one_line(schema, parts):
    with pytest.raises(SamplerError) as error:
        new_matcher(Bytes(), JsonSchema(schema), [5], [])
    said = str(error.value)
    assert "\n" not in said and all(part in said for part in parts), said


@pytest.mark.parametrize(
    "pattern, part",
    [
        ("(?i)a", "'(?i"), ("(a)\\1", r"'\\1'"), ("a*+", "'*+'"), ("[[a]b]", "Possible nested set"), (r"\Aa", r"'\\A'"),
        ("[a&&b]", "Possible set"), ("a{,3}", "'{,3}'"), ("(", "unterminated"), (r"\pL", "bad escape"),
        ("a$b", "compiled"),
        (r"[\Ga]", "bad escape"), ("(?#x)a", "'(?#"), (r"\101", r"'\\1'"), ("(?P=a)", "unknown group"),
    ],
)  # fmt: skip
def test_a_regular_expression_that_is_read_in_two_ways_is_refused(pattern, part):
    with pytest.raises(SamplerError) as error:
        new_matcher(Bytes(), Regex(pattern), [5], [])
    assert "\n" not in str(error.value) and part in str(error.value), str(error.value)


def test_a_file_is_read_where_a_person_names_it_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("person.json").write_text(json.dumps(PERSON))
    read = read_schema_files("top_k=9,json_schema=person.json,greedy")
    assert read == f"top_k=9,json_schema={json.dumps(PERSON, ensure_ascii=False)},greedy"
    with pytest.raises(SamplerError, match="a file is not read here"):
        new_matcher(Bytes(), JsonSchema("person.json"), [5], [])


@pytest.mark.parametrize(
    "content, status, part",
    [
        (None, 2, "can't read it (No such file"),
        ("{", 1, "schema.json: not JSON"),
        ("[1]", 1, "schema.json: a schema is an object"),
        ('{"minimun": 3}', 2, "did you mean 'minimum'?"),
    ],
)
def test_the_command_refuses_a_schema_before_it_looks_for_the_run(skald, tmp_path, content, status, part):
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content)
    found, out, err = skald("generate", tmp_path / "no_run", "--sampler", f"json_schema={file}")
    assert (found, out) == (status, "") and part in err and len(err.strip().splitlines()) == 1, err


def test_the_command_writes_what_a_regular_expression_says(skald, trained_run):
    result = skald.json("generate", trained_run, "--prompt", "ROMEO:", "--max-new-tokens", "60", "--num-samples", "3",
                        "--sampler", 'regex=" [A-Z][a-z]{2,6}(?:, [a-z]{1,9}){1,3}[.!]",temperature=1.1')  # fmt: skip
    for sample in result["samples"]:
        assert sample["finish_reason"] == "stop"
        assert re.fullmatch(r" [A-Z][a-z]{2,6}(?:, [a-z]{1,9}){1,3}[.!]", sample["text"])
