#!/usr/bin/env bash
# llguidance 1.9.1 (CPython 3.11). It compiles a JSON schema to token masks, and refuses what it can't keep. Two texts
# come through that the schema does not allow:
#   {"type": "object", "properties": {"a": {"type": "integer"}}}   {"\u0061":"x"}
# The name is "a", written with an escape. The other names that an object may have are told from "a" by their letters as
# written, so this one counts as another name, whose value may be anything. A reader sees {"a": "x"}. Of
# patternProperties the same holds. What helps: the option json_allowed_escapes without u.
#   {"type": "string", "format": "date"}                           "2021-02-29"
# February has 29 days in every year. What helps: a pattern.
# And two defaults: in a text that the grammar forces, a mask has the one token that the tokenizer's own division of it
# begins with (of "abc", with the tokens a, b, c and ab: ab alone). What is drawn then is not the model's distribution
# over the tokens that the grammar allows. `%llguidance {"no_forcing": true}` allows each of them. A dead end, where no
# token goes on, is an error of the matcher, and the mask then holds the end token.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llguidance==1.9.1
cat >"$folder/masks.py" <<'end'
import json

import llguidance


class Tokens:
    """A vocabulary whose last token ends a text; a text is divided into its longest tokens from the left."""

    bos_token_id = None

    def __init__(self, tokens):
        self.tokens, self.eos_token_id = [*tokens, b"<end>"], len(tokens)
        self.special_token_ids = [len(tokens)]

    def __call__(self, text):
        text, ids = text.encode() if isinstance(text, str) else text, []
        while text:
            ids.append(max((i for i, t in enumerate(self.tokens) if text.startswith(t)), key=lambda i: len(self.tokens[i])))
            text = text[len(self.tokens[ids[-1]]) :]
        return ids


def matcher(tokens, grammar):
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens(tokens)))
    return llguidance.LLMatcher(tokenizer, grammar, log_level=0)


def allowed(matcher):
    bits = int.from_bytes(matcher.compute_bitmask(), "little")
    return [i for i in range(300) if bits >> i & 1]


def accepts(schema, text, **options):
    """Whether the masks let a text through, byte by byte."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    at = matcher([bytes([b]) for b in range(256)], grammar)
    return all(byte in allowed(at) and at.consume_token(byte) for byte in text.encode()) and at.is_accepting()


a = {"type": "object", "properties": {"a": {"type": "integer"}}}
assert not accepts(a, '{"a":"x"}') and accepts(a, '{"a":1}')
print("an escaped name passes:", escaped := accepts(a, '{"\\u0061":"x"}'))
print("with json_allowed_escapes:", accepts(a, '{"\\u0061":"x"}', json_allowed_escapes='nrbtf\\"'))
print("February 29, 2021 is a date:", date := accepts({"type": "string", "format": "date"}, '"2021-02-29"'))
tokens = [b"a", b"b", b"c", b"ab"]
forced, free = (allowed(matcher(tokens, f"{head}start: /abc/")) for head in ("", '%llguidance {"no_forcing": true}\n'))
print("tokens that may begin abc:", forced, "without forcing:", free)
end = matcher(tokens, '%llguidance {"no_forcing": true}\nstart: /d/')
print("where none may begin d:", dead := allowed(end), "error:", end.is_error())
assert escaped and date and forced == [3] and free == [0, 3] and dead == [4] and end.is_error(), "it behaves otherwise"
end
timeout 60 "$folder/venv/bin/python" "$folder/masks.py"
