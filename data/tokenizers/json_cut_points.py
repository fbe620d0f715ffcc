"""What a Hugging Face tokenizer.json proves about its tokens: where a text may be cut, and whether it comes back whole.

data/tokenizers/huggingface_json.py asks. The proof goes through the file's steps in the order in which a text does:
added tokens, normalizer, pre-tokenizer, model. A step that is not known here proves nothing.
"""

from __future__ import annotations

import re

import tokenizers

from data.tokenizers.cut_points import Border, is_word_character

# None of these alternatives goes on from a character that is no white space to a space, or from a newline to a word
# character, and none looks behind itself. Those that look ahead match white space only, and what they see is on their
# side of a SPACE border. At a LINE border white space is the newline alone: all of them that match it match just that.
ALTERNATIVES = frozenset(
    (
        *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", r"'(?:[sdmt]|ll|ve|re)", r"'(?i:[sdmt]|ll|ve|re)"),
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r" ?\p{L}+",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"\p{N}",
        r"\p{N}+",
        r"\p{N}{1,3}",
        r"\s*[\r\n]+",
        r"\s*[\r\n]",
        r"\s+$",
        r"\s+(?!\S)",
        r"\s+",
        r"\s",
    )
)
WORDLESS = (r"\p{N}{1,3}", r"\p{N}", "[0-9]", "[0-9][0-9][0-9]", r"[\r\n]", r"[一-龥぀-ゟ゠-ヿ]+")  # match no border
DROP_WHITE_SPACE = ("WhitespaceSplit", "Whitespace", "BertPreTokenizer")
CHARACTER_WISE = ("Digits", "Punctuation")  # what they do at a place depends on the characters at both sides alone
REWRITE = ("ByteLevel", "Metaspace")  # they put other characters in the place of spaces, so later steps see none
KEEP_WORDS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")  # word characters and white space stay so
BOTH = frozenset(Border)


def steps(part: dict | None) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, sequences laid out."""
    if part is None:
        return []
    inner = part.get("normalizers", part.get("pretokenizers"))
    return [part] if inner is None else [step for one in inner for step in steps(one)]


def provable_borders(content: dict, tokenizer: tokenizers.Tokenizer) -> frozenset[Border]:
    """The borders where the ids of a text are those of what stands in front, and then those of what stands behind."""
    normalizer, pre_tokenizer = steps(content.get("normalizer")), steps(content.get("pre_tokenizer"))
    if replaces_spaces(normalizer):  # to split at spaces does nothing any more
        pre_tokenizer = [step for step in pre_tokenizer if step.get("pattern") != {"String": " "}]
        if any(step["type"] != "Metaspace" for step in pre_tokenizer):
            return frozenset()
    if not (is_local(normalizer, pre_tokenizer) and added_tokens_keep_off(content.get("added_tokens", []), tokenizer)):
        return frozenset()
    divided, undivided = pre_tokenizer_borders(pre_tokenizer)
    maps_bytes = any(step["type"] == "ByteLevel" for step in pre_tokenizer)
    if not maps_bytes and keeps_words_apart(content["model"]):
        divided |= undivided & {Border.SPACE}
    return divided - {Border.LINE} if puts_in_front(normalizer, pre_tokenizer) else divided


def added_tokens_keep_off(added_tokens: list[dict], tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether no added token can take the characters at a border: each lies in a text that is normalized as a whole."""
    for token in added_tokens:
        normalizer = tokenizer.normalizer if token["normalized"] else None
        for text in {token["content"], normalizer.normalize_str(token["content"]) if normalizer else token["content"]}:
            kinds = "".join("w" if is_word_character(c) else " " if c in " \n▁" else "." for c in text)
            if kinds == " " or kinds[:1] == "w" or kinds[-1:] == "w" or "w " in kinds or " w" in kinds:
                return False
    return True


def replaces_spaces(normalizer: list[dict]) -> bool:
    return any(step.get("pattern") == {"String": " "} and step.get("content") == "▁" for step in normalizer)


def is_local(normalizer: list[dict], pre_tokenizer: list[dict]) -> bool:
    """Whether a text is normalized as the two texts at both sides of a border are, and word characters stay so.

    A Prepend puts a mark in front of every text: what becomes of a SPACE border's space, which is left out for it.
    """
    drops_white_space = bool(pre_tokenizer) and pre_tokenizer[0]["type"] in DROP_WHITE_SPACE

    def keeps_words(step: dict) -> bool:
        if step["type"] in ("BertNormalizer", "StripAccents"):  # they may leave other white space around a border
            return drops_white_space
        if step["type"] == "Prepend":
            return step["prepend"] == "▁" and replaces_spaces(normalizer)
        if step["type"] == "Replace":
            return (step["pattern"], step["content"]) == ({"String": " "}, "▁") or step["pattern"] == {"Regex": " {2,}"}
        return step["type"] in KEEP_WORDS

    return all(map(keeps_words, normalizer))


def pre_tokenizer_borders(pre_tokenizer: list[dict]) -> tuple[frozenset[Border], frozenset[Border]]:
    """The borders where a text is divided into words, and those where it is not divided but nothing else is done."""
    divided, possible = frozenset(), BOTH
    for index, step in enumerate(pre_tokenizer):
        if index and step.get("prepend_scheme") == "first":  # depends on whether a word is the first of its text
            return frozenset(), frozenset()
        divided |= step_borders(step) & possible
        is_last = index == len(pre_tokenizer) - 1
        possible = possible if keeps_undivided(step) and (is_last or step["type"] not in REWRITE) else divided
    return divided, possible - divided


def step_borders(step: dict) -> frozenset[Border]:
    """The borders where a step of a pre-tokenizer divides a text, whatever it does elsewhere."""
    kind = step["type"]
    if kind in DROP_WHITE_SPACE or (kind == "ByteLevel" and step.get("use_regex", True)):
        return BOTH  # ByteLevel's is GPT-2's pattern
    if kind == "Metaspace" and step.get("split", True):
        return frozenset({Border.SPACE})
    if kind == "Split" and is_known_pattern(step["pattern"].get("Regex", "")) and not loses_text(step):
        return BOTH
    return frozenset()


def loses_text(step: dict) -> bool:
    """Whether a Split leaves out text: not where it keeps just its matches (`invert`), and they cover every text."""
    return step["behavior"] not in ("Isolated", "Removed") or (step["behavior"] == "Removed") != step["invert"]


def is_known_pattern(pattern: str) -> bool:
    """Whether a pattern consists of ALTERNATIVES, of which the last one takes any white space."""
    alternatives = divide_alternatives(pattern)
    return ALTERNATIVES.issuperset(alternatives) and alternatives[-1] in (r"\s+", r"\s")


def divide_alternatives(pattern: str) -> list[str]:
    """The alternatives of a pattern: its parts between those bars that stand in no parentheses or brackets.

    Repetitions that give nothing back (`++`) become those that may: what is proven here holds for both.
    """
    depth, alternatives = 0, [""]
    for match in re.finditer(r"\\.|\[(?:\\.|[^\]\\])*\]|([+?*]|\{\d+,\d+\})\+|.", pattern, re.DOTALL):
        depth += (match[0] == "(") - (match[0] == ")")
        if match[0] == "|" and not depth:
            alternatives.append("")
        else:
            alternatives[-1] += match[1] or match[0]
    return alternatives


def keeps_undivided(step: dict) -> bool:
    """Whether a step treats both sides of a border that it does not divide as it would treat them alone."""
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in WORDLESS and step["behavior"] == "Isolated" and not step["invert"]
    return step["type"] in (*CHARACTER_WISE, "ByteLevel", "Metaspace")


def puts_in_front(normalizer: list[dict], pre_tokenizer: list[dict]) -> bool:
    """Whether something is put in front of a text, unless it begins with a space."""
    return prepends(normalizer) or any(
        step.get("add_prefix_space") or (step["type"] == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in pre_tokenizer
    )


def prepends(normalizer: list[dict]) -> bool:
    return any(step["type"] == "Prepend" for step in normalizer)


def keeps_words_apart(model: dict) -> bool:
    """Whether no token holds a space or its mark behind a word character, so none can go across a SPACE border.

    Then a model that is given a whole text merges each side by itself (BPE), or finds its best pieces (Unigram).
    """
    if "merges" in model:
        if model.get("ignore_merges") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return False
        vocabulary = model["vocab"]
    elif isinstance(model["vocab"], list):
        vocabulary = (token for token, _ in model["vocab"])
    else:
        return False
    return not any(re.search(r"\w[ ▁]", token) for token in vocabulary)


def is_lossless(content: dict) -> bool:
    """Whether every text comes back as it was: a model of all bytes, and nothing in front of it that changes a text."""
    pre_tokenizer, model = steps(content.get("pre_tokenizer")), content["model"]
    return (
        not steps(content.get("normalizer"))
        and [step["type"] for step in pre_tokenizer].count("ByteLevel") == 1
        and all(step["type"] in ("Split", "ByteLevel", *CHARACTER_WISE) for step in pre_tokenizer)
        and not any(step.get("add_prefix_space") or step.get("behavior") == "Removed" for step in pre_tokenizer)
        and (content.get("decoder") or {}).get("type") == "ByteLevel"
        and "merges" in model
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()
        and all(map(comes_back, content.get("added_tokens", [])))
    )


def comes_back(token: dict) -> bool:
    """Whether an added token takes only its own text, and a ByteLevel decoder does not read that as bytes."""
    return bool(re.fullmatch("[!-~]+", token["content"])) and not token["lstrip"] and not token["rstrip"]
