"""Start and end tokens that chat templates write: what Hugging Face's own tokenizers make of the same conversations."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
import tokenizers
from test_document_pieces import build

from data.config import Source
from data.errors import DataError
from data.store.store import open_store
from data.templates import Template
from data.tokenizers.byte_level import Bytes
from data.tokenizers.huggingface_json import HuggingFace
from data.tokenizers.special_tokens import BoundaryToken, SpecialTokens
from data.written_text import WrittenText
from launch.inference.likelihood import encode_continuation
from launch.inference.prompts import encode_response, encode_whole_prompt

INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[I] ' + m.content + ' [/I]' }}{% else %}"
    "{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
LINES = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content + eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TURNS = INSTRUCT.replace("{% if m.role == 'user' %}", "{% if m.role == 'user' %}{{ bos_token }}").removeprefix(
    "{{ bos_token }}"
)
CHAT = [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "b"}, {"role": "assistant", "content": "c d"},
]  # fmt: skip


def pair_of_tokenizers(design: str, template: str):
    """Hugging Face's tokenizer and ours, both of one token a byte, or a character."""
    vocabulary = ["<unk>", "<s>", "</s>", "▁", *tokenizers.pre_tokenizers.ByteLevel.alphabet(), "\n"]
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], unk_token="<unk>"))
    if design == "bytes":
        library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=design)
    library.add_special_tokens(["<s>", "</s>"])
    transformers = pytest.importorskip("transformers")
    names = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **names)
    return theirs, HuggingFace(library.to_str(), SpecialTokens(1, 2, True))


def documents_of(template: str, tokenizer, folder):
    (folder / "chat.jsonl").write_text("".join(json.dumps({"messages": CHAT[:n]}) + "\n" for n in (4, 2)))
    documents = open_store(Source(str(folder / "chat.jsonl"), template=template), tokenizer, folder / "cache").documents
    return documents, [documents.tokens[a:b].tolist() for a, b in itertools.pairwise(documents.offsets)]


@pytest.mark.parametrize("design", ["bytes", "always", "first"])
@pytest.mark.parametrize("template", [INSTRUCT, LINES, TURNS], ids=["instruct", "lines", "turns"])
def test_ids_and_what_counts_are_hugging_faces(design, template, tmp_path):
    theirs, ours = pair_of_tokenizers(design, template)
    documents, found = documents_of(template, ours, tmp_path)
    for number, messages in enumerate((CHAT, CHAT[:2])):
        expected = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        start = [] if expected["input_ids"][0] == 1 else [1]
        assert found[number] == start + expected["input_ids"]
        counted = documents.counts(np.arange(*documents.offsets[number : number + 2]))
        if design == "bytes":  # elsewhere their offsets leave out the spaces that are put in front
            assert counted.tolist() == [False] * len(start) + [mask == 1 for mask in expected["assistant_masks"]]
        prompt, response = Template(template).divide({"messages": messages})
        ids = encode_whole_prompt(prompt, ours)
        asked = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == start + asked and ids == found[number][: len(ids)]
        answer = encode_response(prompt, response, ours)
        assert [*ids, *answer, 2] == found[number][: len(ids) + len(answer) + 1]
        together = encode_continuation(ours, prompt, response)
        assert [*together.prompt, *together.continuation] == ids + answer


@pytest.mark.parametrize("template", [INSTRUCT, LINES, TURNS], ids=["instruct", "lines", "turns"])
def test_unmarked_templates_count_the_ends_of_what_the_assistant_says(template, tmp_path):
    unmarked = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    _, ours = pair_of_tokenizers("bytes", template)
    documents, marked = documents_of(template, ours, tmp_path)
    others, found = documents_of(unmarked, ours, tmp_path)
    assert found == marked
    places = np.flatnonzero(others.tokens[:] == 2)
    ends = [place for place in places if documents.counts(np.array([place]))[0]]
    assert len(ends) == 3 and others.counts(np.array(ends)).all()


@pytest.mark.parametrize("kind", ["sentencepiece", "sentencepiece that keeps spaces"])
def test_a_sentencepiece_model_has_its_tokens_where_a_template_writes_them(kind, tmp_path):
    tokenizer, encode = build(kind)
    template = INSTRUCT.replace("m.content", "['is it', 'yes', 'what', 'no'][loop.index0]")
    documents, (found, short) = documents_of(template, tokenizer, tmp_path)
    assert found == [1, *encode("[I] is it [/I] yes"), 2, *encode("x[I] what [/I] no")[2:], 2]
    assert short == [1, *encode("[I] is it [/I] yes"), 2]
    prompt, _ = Template(template).divide({"messages": CHAT})
    assert encode_whole_prompt(prompt, tokenizer) == found[: -1 - len(encode("no"))]
    sizes = [len(" yes no"), len(" yes")]
    assert documents.sizes.tolist() == sizes


def test_a_tokenizer_without_such_tokens_has_the_text_alone(tmp_path):
    _, found = documents_of(INSTRUCT, Bytes(), tmp_path)
    assert bytes(found[0]).decode() == "[I] a [/I] yo[I] b [/I] c d"


def test_an_end_token_that_is_changed_is_refused():
    with pytest.raises(DataError, match="bos_token or eos_token in the template changes it"):
        Template(INSTRUCT.replace("+ eos_token", "+ eos_token | upper")).parts({"messages": CHAT})


def test_a_text_keeps_its_tokens_when_it_is_copied_joined_and_stripped():
    text = WrittenText(["a ", BoundaryToken.END, "b", " ", ""])
    assert text == "a b " and text.contents == ("a ", BoundaryToken.END, "b ")
    for copied in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert copied == text and copied.contents == text.contents
    assert (text + "c").contents == ("a ", BoundaryToken.END, "b c")
    assert text.rstrip().contents == ("a ", BoundaryToken.END, "b")
    assert WrittenText(["a ", BoundaryToken.END, " "]).rstrip().contents == ("a ", BoundaryToken.END)
    assert WrittenText([BoundaryToken.END]) and not WrittenText([])
