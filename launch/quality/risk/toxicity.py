"""The share of texts that hold a word of a list of insults and threats, and which of these words human text holds too.

A list knows no context: `ass` is an animal in one book and an insult in another. So the same list is held against human
text, and every match is shown (`audit`). launch/quality calls it for every sampler.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from train.quality.proportion import wilson_interval

WORDS = Path(__file__).with_name("toxic_words.txt")
CONTEXT, CONTEXTS = 40, 20  # characters shown on each side of a match, and matches shown of a word


class Match(NamedTuple):
    """A word of the list in a text: the offsets where it starts and stops there."""

    word: str
    start: int
    stop: int


def read_words(path: str | Path = WORDS) -> tuple[str, ...]:
    """The words and phrases of a file, one a line, in its order; what follows a # is left out. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); name a file with a word a line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 at byte {error.start}; save it as UTF-8") from None
    words: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        word = folded(" ".join(line.partition("#")[0].split()))
        if not word:
            continue
        if word in words:
            raise DataError(f"{path}:{number}: {word!r} stands in line {words[word]} already; leave one out")
        if not (is_of_word(word[0]) and is_of_word(word[-1])):
            raise DataError(f"{path}:{number}: {word!r} begins or ends with no letter; whole words are looked for")
        words[word] = number
    if not words:
        raise DataError(f"{path}: no word in it; write one a line")
    return tuple(words)


def folded(text: str) -> str:
    """Without the difference of capitals (Unicode's full case folding), and of ' and its typographic sign."""
    return text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def is_of_word(character: str) -> bool:
    return re.fullmatch(r"\w", character) is not None


class WordMatcher:
    """Finds whole words and phrases of a list in texts, whatever their capitals (Unicode's full case folding).

    Any white space may stand between the words of a phrase. Of words that begin at one place the longest is found; what
    is found does not overlap.
    """

    def __init__(self, words: Iterable[str]):
        longest_first = sorted(map(folded, words), key=len, reverse=True)
        either = "|".join(r"\s+".join(map(re.escape, word.split())) for word in longest_first)
        self.pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)") if either else None

    def matches(self, text: str) -> Iterator[Match]:
        same = folded(text)
        offsets = None  # of each character in the folded text, made where there is a match: folding may add some
        for found in self.pattern.finditer(same) if self.pattern else ():
            offsets = offsets or [0, *itertools.accumulate(len(character.casefold()) for character in text)]
            start, stop = bisect.bisect_right(offsets, found.start()) - 1, bisect.bisect_left(offsets, found.end())
            yield Match(" ".join(found[0].split()), start, stop)


def toxicity(texts: Sequence[str], words: Iterable[str]) -> dict:
    """The `rate` of texts that hold a word of the list, with its 95% Wilson `interval`, and how many texts hold each
    word (`words`, the most frequent first)."""
    matcher = WordMatcher(words)
    found = [{match.word for match in matcher.matches(text)} for text in texts]
    return rate(found) | {"words": texts_by_word(found)}


def rate(found: Sequence[set[str]]) -> dict:
    """Of texts as the words that each holds."""
    toxic, total = sum(map(bool, found)), len(found)
    if not total:
        return {"texts": 0, "rate": None, "interval": None}
    return {"texts": total, "rate": toxic / total, "interval": wilson_interval(toxic, total)}


def texts_by_word(found: Iterable[set[str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in itertools.chain.from_iterable(map(sorted, found)):
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def audit(human_texts: Sequence[str], words: Iterable[str], contexts: int = CONTEXTS) -> dict:
    """What a list finds in text that people wrote: `rate` and `interval` as of `toxicity`, and its `words` that occur
    there, the most frequent first, each with its number of `matches`, the `share` of texts that hold it, and up to
    `contexts` matches with what stands around them.

    A reader decides which of these words are innocent there. `words_left` are those that human text does not hold: a
    rate over them alone counts no word that is innocent in such texts, and misses those that are used there in earnest.
    """
    words = tuple(map(folded, words))
    matcher = WordMatcher(words)
    matches = [list(matcher.matches(text)) for text in human_texts]
    found = [{match.word for match in own} for own in matches]
    by_word = [
        {"word": word, "texts": texts, "share": texts / len(found), **shown(human_texts, matches, word, contexts)}
        for word, texts in texts_by_word(found).items()
    ]
    occurring = {entry["word"] for entry in by_word}
    return rate(found) | {"words": by_word, "words_left": [word for word in words if word not in occurring]}


def shown(texts: Sequence[str], matches: Sequence[Sequence[Match]], word: str, contexts: int) -> dict:
    """How many matches a word has, and the first `contexts` of them in their texts."""
    own = [(text, match) for text, found in zip(texts, matches, strict=True) for match in found if match.word == word]
    return {"matches": len(own), "contexts": [context(text, match) for text, match in own[:contexts]]}


def context(text: str, match: Match) -> dict:
    """A match as it is shown: what stands `before` it, the `match` itself, what stands `after` it, on one line."""
    parts = (
        text[max(0, match.start - CONTEXT) : match.start],
        text[match.start : match.stop],
        text[match.stop :][:CONTEXT],
    )
    return {name: re.sub(r"\s+", " ", part) for name, part in zip(("before", "match", "after"), parts, strict=True)}
