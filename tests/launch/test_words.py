"""Words as ids: the spellings of real tokenizers, and what they refuse. Stop texts: exact however a text is cut up."""

import itertools

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import Tokenizer as Config
from data.tokenizers import gpt2_bpe, huggingface_json
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.streaming import IncrementalDecoder
from launch.inference.stop_texts import find_stop
from launch.inference.text import TextSample
from launch.inference.words import resolve
from model.decode.chain import Chain, SamplerError, parse_chain
from model.decode.completion import Completion


def resolved(sampler: str, tokenizer) -> tuple:
    """The first link's value."""
    link = resolve(parse_chain(sampler), tokenizer).links[0]
    return getattr(link, "phrases", None) or link.amounts


@pytest.fixture(scope="module")
def gpt2(corpora):
    return gpt2_bpe.load(Config("gpt2", path=str(corpora / "gpt2_bpe")))


@pytest.fixture(scope="module")
def marked() -> huggingface_json.HuggingFace:
    """Words with a mark for the space in front of them, which a text's first one gets too, as Llama's."""
    pieces = ["<unk>", "▁", "▁yes", "yes", "a", "▁a", "0", "▁0"]
    parts = tokenizers.Tokenizer(tokenizers.models.Unigram([(p, -1 - len(p) / 100) for p in pieces], 0, False))
    parts.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    parts.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    return huggingface_json.HuggingFace(parts.to_str(), huggingface_json.SpecialTokens(None, None, False))


# Spellings


def test_a_word_is_banned_with_and_without_the_space_in_front(gpt2):
    found = resolved('banned_words="yes"', gpt2)
    assert sorted(found) == sorted({tuple(gpt2.encode("yes")), tuple(gpt2.encode(" yes"))}) and len(found) == 2
    several = resolved('banned_words="Shakespeare wrote"', gpt2)
    assert {gpt2.decode(list(ids)) for ids in several} == {"Shakespeare wrote", " Shakespeare wrote"}


def test_a_phrase_that_another_one_catches_is_left_out():
    assert resolved('banned_words=["ab", [98]]', Bytes()) == ((98,),)
    assert resolved('banned_words="ab"', Bytes()) == ((97, 98),), "behind a space it ends with the same bytes"


def test_both_tokens_of_a_word_get_its_bias(gpt2):
    found = dict(resolved('logit_bias={"yes": 2, "198": -1}', gpt2))
    assert found == {tuple(gpt2.encode("yes")): 2, tuple(gpt2.encode(" yes")): 2, (198,): -1}


def test_a_word_behind_a_mark_for_the_space_is_found(marked):
    assert marked.encode("yes") == [2] and resolved('banned_words="yes"', marked) == ((2,),)


@pytest.mark.parametrize(
    "sampler, said",
    [
        ('logit_bias={"ab": 2}', "logit_bias: 'ab' is no token: the tokenizer writes it as 'a' (0), 'b' (1); bias one"),
        ('banned_words="axb"', "banned_words: 'axb': character 'x' (U+0078) at offset 1 is not among the tokenizer's"),
        ("banned_words=[[0], [7]]", "banned_words holds the id 7; ids go from 0 to 2"),
        ('logit_bias={"3": 1}', "logit_bias holds the id 3; ids go from 0 to 2"),
        ("stop_tokens=[1, 9]", "stop_tokens holds the id 9; ids go from 0 to 2"),
        ('banned_words="\\ud800"', "'\\ud800' in '\\ud800' is no character"),
    ],
)
def test_what_the_tokenizer_does_not_know_is_said_in_one_line(sampler, said):
    with pytest.raises(SamplerError) as error:
        resolve(parse_chain(sampler), Characters("ab "))
    assert said in str(error.value) and "\n" not in str(error.value)


# Stop texts


def first_stop(text: str, stops: list[str]) -> int | None:
    """By definition: character by character, the longest stop text that the text ends with."""
    for end in range(1, len(text) + 1):
        if held := [stop for stop in stops if text[:end].endswith(stop)]:
            return end - max(map(len, held))
    return None


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.text("abc", max_size=12), STOPS, st.integers(0, 12))
def test_a_stop_text_is_found_where_its_definition_says(text, stops, searched):
    searched = min(searched, len(text))
    if first_stop(text[:searched], stops) is None:
        assert find_stop(text, stops, searched) == first_stop(text, stops)


class Uneven(Bytes):
    """Tokens that are pieces of bytes: characters begin in one and end in another, as do stop texts."""

    pieces = (b"a", b"b", b"ab", b"ba\xc3", b"\xc3", b"\xa9", b"\xa9b", b"bbab", b"\xf0\x9f", b"\x98\x80a")

    def decode(self, ids):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=5),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_texts_tokens_and_what_is_shown_do_not_depend_on_the_dispatches(ids, stops, sizes):
    tokenizer = Uneven()

    def written(sizes):
        sample, shown = TextSample("", Chain(), 0, IncrementalDecoder(tokenizer), stops), [""]
        rest = list(ids)
        while rest and not sample.finish_reason:
            size = sizes.pop(0) if sizes else len(rest)
            new, rest = rest[:size], rest[size:]
            sample.extend(Completion(new, [0.0] * len(new), finish_reason=None if rest else "length"))
            shown.append(sample.printable())
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(shown))
        assert shown[-1] == sample.text
        return sample.text, sample.completion.tokens, sample.finish_reason

    whole = tokenizer.decode(ids)
    offset = first_stop(whole, stops)
    text, tokens, reason = written([])
    assert (text, tokens, reason) == written(sizes) == written([1] * len(ids))
    assert text == (whole if offset is None else whole[:offset])
    assert reason == ("length" if offset is None else "stop")
    if offset is not None:
        assert tokenizer.decode(tokens).startswith(text)
        assert not tokens or not tokenizer.decode(tokens[:-1]).startswith(text), "no token too many"
