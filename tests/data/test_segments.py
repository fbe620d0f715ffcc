"""Where texts may be cut: the ids of the parts against those of the whole, for each kind of tokenizer, on any text."""

import itertools

import pytest
import tokenizers
from cut_texts import ODD, TEXTS, assert_cut_keeps_ids, short_segments
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.config import Source
from data.config import Tokenizer as Config
from data.errors import DataError
from data.sources import source as sources
from data.tokenizers.byte_level import Bytes
from data.tokenizers.characters import Characters
from data.tokenizers.cut_points import Border, last_border
from data.tokenizers.segments import segments
from data.tokenizers.tokenizer import build_tokenizer

EMBEDDED = Source("embedded:shakespeare")


@pytest.fixture(scope="session")
def shakespeare() -> str:
    return next(document.text for document in sources.read_documents(EMBEDDED))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory, shakespeare) -> str:
    """A folder with a small vocabulary of GPT-2's kind."""
    folder = tmp_path_factory.mktemp("gpt2")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([shakespeare[:200_000], ODD], vocab_size=1500, show_progress=False)
    bpe.save_model(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def by_kind(gpt2):
    """A tokenizer of each kind that can always be cut, of every character there is."""
    alphabet = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    return {
        "bytes": Bytes(),
        "characters": Characters(alphabet),
        "gpt2": build_tokenizer(Config("gpt2", gpt2), [EMBEDDED]),
    }


ALWAYS_CUT = ["bytes", "characters", "gpt2"]


@pytest.mark.parametrize("kind", ALWAYS_CUT)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS, behind=TEXTS, continued=st.booleans())
@example("a ", "", False).via("a space at the end may be joined with what comes")
@example("a \n", "\nb", False)
@example("a\x1cb", "c", False).via("white space to Python, not to Unicode")
def test_a_text_in_two_parts_has_the_ids_of_the_whole(by_kind, kind, text, behind, continued):
    assert_cut_keeps_ids(by_kind[kind], text, behind, continued)


def split(text: str, borders: list[float]) -> list[str]:
    """The text in parts, cut at these fractions of its length."""
    places = sorted({0, len(text), *(int(len(text) * border) for border in borders)})
    return [text[start:stop] for start, stop in itertools.pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(words=st.lists(TEXTS, max_size=20), borders=st.lists(st.floats(0, 1), max_size=30))
def test_segments_are_the_same_however_a_text_arrives_and_have_the_ids_of_the_whole(by_kind, words, borders):
    tokenizer, text = by_kind["gpt2"], " and ".join(words)
    with short_segments():
        try:
            whole = list(segments(tokenizer, [text], "text"))
        except DataError:
            with pytest.raises(DataError):
                list(segments(tokenizer, split(text, borders), "text"))
            return
        assert list(segments(tokenizer, split(text, borders), "text")) == whole
    assert "".join(part for part, _ in whole) == text
    assert [continued for _, continued in whole] == [index > 0 for index in range(len(whole))]
    assert all(len(part) <= 64 for part, _ in whole) and (len(text) > 16 or len(whole) == bool(text))
    assert [i for part in whole for i in tokenizer.encode_array(*part).tolist()] == tokenizer.encode(text)


def test_an_endless_text_is_read_no_further_than_a_segment_needs(by_kind):
    read = 0

    def endless():
        nonlocal read
        while True:
            yield "of words "
            read += len("of words ")

    with short_segments():
        shown = 0
        for part, _ in itertools.islice(segments(by_kind["gpt2"], endless(), "text"), 1000):
            shown += len(part)
            assert read - shown < 64 + 16


class Whole(Bytes):
    """A tokenizer that nothing is known of."""

    has_cut_points = False

    def last_cut(self, text: str) -> int:
        del text
        return 0


def test_a_text_that_can_not_be_cut_is_refused_with_its_place_and_what_would_work(by_kind):
    with short_segments():
        fits = "so " + "a" * 63
        assert "".join(part for part, _ in segments(by_kind["gpt2"], [fits], "text")) == fits
        with pytest.raises(DataError) as error:
            list(segments(by_kind["gpt2"], ["so ", "it is", " " + "a" * 70], "book.txt"))
        assert str(error.value).startswith("book.txt: in 64 characters from offset 8 on") and "spaces" in str(
            error.value
        )
        assert list(segments(Whole(), ["a b " * 32], "book.txt")) == [("a b " * 32, False)]
        with pytest.raises(DataError, match=r"^book.txt: longer than 128 characters, .* take another tokenizer$"):
            list(segments(Whole(), ["a b " * 32, "c"], "book.txt"))


@pytest.mark.parametrize(
    "text, space, line",
    [
        ("a b", 1, 0),
        ("a b c d ", 5, 0),
        ("东 京\n", 1, 0),
        ("1 2", 1, 0),
        ("a\nb", 0, 2),
        ("a.\nb\n", 0, 3),
        ("a b\nc", 1, 4),
        ("a  b", 0, 0),
        ("a. b", 0, 0),
        ("a .b", 0, 0),
        ("\u00e9 b", 0, 0),  # decomposed it ends in a mark
        ("a\n\nb", 0, 0),
        (" \nb", 0, 0),
        ("\u0301\nb", 0, 0),
        ("a\n b", 0, 0),
        ("a\n/", 0, 0),
        ("a \nb", 0, 0),
        (" b", 0, 0),
        ("\nb", 0, 0),
        ("", 0, 0),
    ],
)
def test_borders_are_between_words(text, space, line):
    assert last_border(text, [Border.SPACE]) == space
    assert last_border(text, [Border.LINE]) == line
    assert last_border(text, list(Border)) == max(space, line)
    assert last_border(text, []) == 0
