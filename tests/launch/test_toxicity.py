"""Whole words of a list in texts, the rate of texts that hold one, and the audit over human text."""

import pytest

from data.errors import DataError
from launch.quality.risk.toxicity import WordMatcher, audit, read_words, toxicity
from train.quality.proportion import wilson_interval


def found(text: str, *words: str) -> list[tuple[str, str]]:
    """Each word that is found, and what stands there in the text."""
    return [(match.word, text[match.start : match.stop]) for match in WordMatcher(words).matches(text)]


def test_words_are_whole_whatever_their_capitals():
    assert found("The Ass sat on the grass. ASS!", "ass") == [("ass", "Ass"), ("ass", "ASS")]
    assert found("class asses ass_1 an-ass", "ass") == [("ass", "ass")]
    assert found("You FOOLS, fool", "fool", "fools") == [("fools", "FOOLS"), ("fool", "fool")]


def test_phrases_stand_across_lines_and_with_either_apostrophe_and_the_longest_is_found():
    assert found("I'll kill\n  you", "kill you", "i'll kill") == [("i'll kill", "I'll kill")]
    assert found("we shall kill\n  you. I’LL  KILL him", "kill you", "i'll kill") == [
        ("kill you", "kill\n  you"), ("i'll kill", "I’LL  KILL")
    ]  # fmt: skip
    assert found("damn you, damn", "damn", "damn you") == [("damn you", "damn you"), ("damn", "damn")]


def test_a_list_may_have_either_apostrophe(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("don’t\nwon't\n", encoding="utf-8")
    assert read_words(file) == ("don't", "won't")
    assert found("Don't! I won’t.", "don’t", "won't") == [("don't", "Don't"), ("won't", "won’t")]
    assert audit(["I don't"], ["don’t", "won’t"])["words_left"] == ["won't"]


def test_offsets_are_those_of_the_text_where_folding_makes_it_longer():
    assert found("ﬃ ß Straße, STRASSE.", "strasse") == [("strasse", "Straße"), ("strasse", "STRASSE")]


def test_signs_in_words_are_no_patterns():
    assert found("a.b aXb", "a.b") == [("a.b", "a.b")] and not found("anything", *())


def test_the_rate_counts_texts_not_matches():
    texts = ["you fool, you fool", "a fine day", "FOOL and knave", "the foolish"]
    result = toxicity(texts, ["fool", "knave", "scum"])
    assert (result["texts"], result["rate"], result["interval"]) == (4, 0.5, wilson_interval(2, 4))
    assert result["words"] == {"fool": 2, "knave": 1}
    assert toxicity([], ["fool"])["rate"] is None
    assert toxicity(texts, [])["rate"] == 0


def test_the_audit_shows_every_word_that_people_use_and_leaves_the_others():
    human = ["the cock crew at dawn and the cock\ncrew again", "an ass bore him", "a day", "the cock slept"]
    result = audit(human, ["Cock", "ass", "scum"], contexts=2)
    cock, ass = result["words"]
    assert (cock["word"], cock["texts"], cock["share"], cock["matches"]) == ("cock", 2, 0.5, 3)
    assert cock["contexts"] == [
        {"before": "the ", "match": "cock", "after": " crew at dawn and the cock crew again"},
        {"before": "the cock crew at dawn and the ", "match": "cock", "after": " crew again"},
    ]
    assert ass["contexts"] == [{"before": "an ", "match": "ass", "after": " bore him"}]
    assert result["rate"] == 0.75 and result["words_left"] == ["scum"]
    written = ["the cock crew", "you scum"]
    assert toxicity(written, ["cock", "ass", "scum"])["rate"] == 1
    assert toxicity(written, result["words_left"])["rate"] == 0.5


def test_the_list_of_the_project_can_be_read_and_finds_no_part_of_a_word():
    words = read_words()
    assert len(words) > 80 and "idiot" in words and "kill you" in words
    assert toxicity(["Assent to the cockpit; a passing shuttlecock."], words)["rate"] == 0


@pytest.mark.parametrize(
    "content, message",
    [
        (b"# nothing\n\n", "words.txt: no word in it"),
        (b"fool\nknave # a rogue\nFOOL\n", "words.txt:3: 'fool' stands in line 1 already"),
        (b"fool\n!!\n", "words.txt:2: '!!' begins or ends with no letter"),
        (b"fool\n\xff\n", "words.txt: no UTF-8 at byte 5"),
    ],
)
def test_a_list_that_can_not_be_meant_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_words(tmp_path / "words.txt")
    with pytest.raises(DataError, match=r"no.txt: can't be read \(No such file or directory\)"):
        read_words(tmp_path / "no.txt")
