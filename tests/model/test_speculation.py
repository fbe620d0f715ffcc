"""Drafts: what is proposed, and that texts stay the same and take fewer forward passes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decode.speculation import PromptLookup

pytestmark = pytest.mark.timeout(120)


def slow_lookup(text: list[int], longest: int, shortest: int, count: int) -> list[int]:
    """The definition, position by position: copies token by token behind the newest earlier occurrence."""
    for length in range(longest, shortest - 1, -1):
        for end in range(len(text) - 1, length - 1, -1):
            if text[end - length : end] == text[-length:]:
                whole = list(text)
                for index in range(count):
                    whole.append(whole[end + index])
                return whole[len(text) :]
    return []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 4), st.integers(1, 9))
@settings(deadline=None, max_examples=300)
def test_prompt_lookup_copies_what_followed_the_newest_longest_repeat(text, shortest, more, count):
    longest = shortest + more
    expected = slow_lookup(text, longest, shortest, count)
    assert PromptLookup(longest, shortest).propose([text], count) == [expected]


def test_each_text_gets_drafts_of_its_own():
    assert PromptLookup().propose([[1, 2, 3, 1, 2], [5, 6, 7], [9, 9, 9]], 4) == [[3, 1, 2, 3], [], [9, 9, 9, 9]]
