"""Texts to cut, and what a cut must hold: for the tests of cut points and segments."""

import contextlib
import random

import numpy as np
import pytest
from hypothesis import strategies as st

from data.tokenizers import segments

SHAPES = [
    "a", "b", "the", "Xy", "é", "e\u0301", "ü", "ﬁ", "İ", "Ǆ", "ß", "Ж", "东", "京", "の", "가", "각", "ع", "न",
    " ", " ", " ", "\n", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\u200b", "▁", "\u093f",
    "'", "'s", "'ll", "’", ".", ",", "!", "-", "/", "。", "1", "12", "½", "٣", "_", "#", "👩🏽‍🚀", "<|end|>", "[M]",
    " a", "a b", "b\na", "a\nb", "é a", "a é",
]  # fmt: skip
ODD = "".join(random.Random(0).choices(SHAPES, k=20_000))  # so tokens of odd neighbours are in the vocabularies
TEXTS = st.lists(
    st.one_of(st.sampled_from(SHAPES), st.characters(exclude_categories=["Cs"])), min_size=0, max_size=30
).map("".join)


def assert_cut_keeps_ids(tokenizer, text: str, behind: str, continued: bool, score=None) -> None:
    """Cuts a text where the tokenizer says, and compares the ids of the parts with those of the whole."""
    cut = tokenizer.last_cut(text)
    assert 0 <= cut <= len(text)
    if cut:
        whole = tokenizer.encode_array(text + behind, continued)
        left, right = tokenizer.encode_array(text[:cut], continued), tokenizer.encode_array(text[cut:] + behind, True)
        assert whole.dtype == left.dtype == right.dtype == np.int32
        assert_same_ids([*left.tolist(), *right.tolist()], whole.tolist(), score)


def assert_same_ids(parts: list[int], whole: list[int], score=None) -> None:
    """`score` gives the score of an id under a unigram model. Such a model divides "lll" into "l" and "ll" or "ll" and
    "l" as rounding has it, so what must be the same is the sum."""
    if score and parts != whole:
        assert sum(map(score, parts)) == pytest.approx(sum(map(score, whole)), rel=1e-6)
    else:
        assert parts == whole


@contextlib.contextmanager
def short_segments():
    """Segments of 16 characters, of 64 at most (128 without cut points): the same code, on texts of a test's size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_LENGTH", 16)
        patch.setattr(segments, "MAX_SEGMENT_LENGTH", 64)
        patch.setattr(segments, "MAX_WHOLE_LENGTH", 128)
        yield
