"""Texts shaded by probability: the text itself, however it comes, and one colour for the parts of a character."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tokenizers.byte_level import Bytes
from data.tokenizers.streaming import IncrementalDecoder
from launch.commands.shading import SHADES, PlainText, ShadedText, legend, shade
from launch.inference.text import TextSample
from model.decode.chain import Chain
from model.decode.completion import Completion

ESCAPES = re.compile("\x1b\\[[0-9;]*m")
COLOUR_OF = dict(SHADES)


def colours(shown: str) -> list[tuple[str, int]]:
    """Each character with the colour of its background."""
    found, colour = [], None
    for escape, character in re.findall("(\x1b\\[[0-9;]*m)|(.)", shown, re.DOTALL):
        if escape:
            background = re.search("48;5;([0-9]+)", escape)
            colour = background and int(background[1])
        else:
            found.append((character, colour))
    return found


def write(text: bytes, nats: list[float], sizes: list[int], stops: list[str]) -> tuple[str, str]:
    """What is shown of a text, shaded and plain, with so many tokens a dispatch."""
    sample = TextSample("", Chain(), 0, IncrementalDecoder(Bytes()), stops)
    plain, shaded, shown, left = PlainText(sample), ShadedText(sample), ["", ""], list(text)
    while left and not sample.finish_reason:
        size = sizes.pop() if sizes else len(left)
        piece, left = left[:size], left[size:]
        sample.extend(Completion(piece, nats[: len(piece)], finish_reason=None if left else "length"))
        nats = nats[len(piece) :]
        shown = [shown[0] + shaded.new(), shown[1] + plain.new()]
    return shown[0], shown[1]


@given(
    st.one_of(st.text("ab\né😀", min_size=1, max_size=9).map(str.encode), st.binary(min_size=1, max_size=9)),
    st.lists(st.integers(1, 4), max_size=9),
    st.lists(st.text("ab\né", min_size=1, max_size=2), max_size=2),
)
@settings(deadline=None, max_examples=150)
def test_a_shaded_text_is_the_text(text, sizes, stops):
    shaded, plain = write(text, [-1.0] * len(text), sizes, stops)
    assert ESCAPES.sub("", shaded).replace("↵\n", "\n") == plain


@pytest.mark.parametrize("sizes", [[], [1] * 9, [3, 2]])
def test_each_token_has_the_colour_of_its_probability_and_parts_of_a_character_have_one(sizes):
    """é has two bytes of 0.3 each: 0.09 together."""
    nats = [-0.1, -1.2, -1.2, -8.0, -0.1]
    shaded, _ = write("aéb\n".encode(), nats, list(sizes), [])
    assert colours(shaded) == [
        ("a", COLOUR_OF[0.5]), ("é", COLOUR_OF[0.01]), ("b", COLOUR_OF[0.0]), ("↵", COLOUR_OF[0.5]), ("\n", None),
    ]  # fmt: skip


def test_the_legend_shows_every_colour():
    assert {colour for _, colour in colours(legend())} == {None, *COLOUR_OF.values()}
    assert colours(shade("x", 0.0009)) == [("x", COLOUR_OF[0.0])] and len(ESCAPES.sub("", legend())) <= 80


def test_off_a_terminal_the_text_is_plain_and_a_line_says_so(skald, trained_run):
    command = ["generate", trained_run, "--prompt", "A", "--max-new-tokens", "9", "--show-probabilities"]
    status, out, err = skald(*command)
    assert status == 0 and out.startswith("A") and "\x1b" not in out + err
    assert err.startswith("[--show-probabilities needs a terminal: here is plain text")
