"""Templates of records: which text a record stands for, and what of it is the response. Sources and tasks use them.

A template is Jinja, as Hugging Face's chat templates are. It runs in Jinja's sandbox: it sees the record's fields and
nothing of this program, the files or the system.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import ext, meta, nodes

from data.errors import DataError
from data.sandbox import RequiredField, make_environment
from data.sources.files import expand_home
from data.tokenizers.special_tokens import BoundaryToken
from data.written_text import WrittenText, contents_of, join_texts

MARK = secrets.token_hex(16)  # stands around responses until the text is cut there: no record can hold it
GIVEN = ("add_generation_prompt", "bos_token", "eos_token")  # to chat templates, whatever a record holds
OPTIONAL = {"tools": None, "documents": None}  # what Hugging Face gives a chat template where there are none
CALLS = ("tool_calls", "function_call")  # a message that makes one may lack a content
BOUNDARIES = {secrets.token_hex(16): token for token in BoundaryToken}  # where start and end tokens are written
BOUNDARY = re.compile(f"({'|'.join(BOUNDARIES)})")
RESPONSE = re.compile(f"{MARK}<(.*?){MARK}>", re.DOTALL)


class Part(NamedTuple):
    """A part of what a template makes of a record. `counted`: it is a response, which counts in the loss. Its text is
    a WrittenText where the template wrote a start or end token."""

    text: str
    counted: bool


class Generation(ext.Extension):
    """`{% generation %} … {% endgeneration %}`: what stands in it is a response, as Hugging Face marks it."""

    tags = frozenset(("generation",))
    marks = 0  # made since it was set to 0

    def parse(self, parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller) -> str:
        self.marks += 1
        return f"{MARK}<{caller()}{MARK}>"


class Template:
    """A Jinja template: `text` itself where it holds a brace and a percent sign or two braces, else the file it names.

    What it writes within `{% generation %}` is a response; the rest is prompt. A template that reads `messages`, a list
    of objects with `role` and `content`, is a chat template. Where one of those marks no response, every message of
    the role `assistant` is one: what the template adds to the messages before it, from the generation prompt on.

    `fields`: the names of the fields that it reads where a record has them; `required`: those that it can't do without.
    Raises DataError where it is no template, or marks no response.
    """

    def __init__(self, text: str):
        self.source, origin = read_template(text)
        chat = make_environment(jinja2.Undefined, [Generation])  # chat templates ask for keys that a message may lack
        try:
            tree = chat.parse(self.source)
            names = meta.find_undeclared_variables(tree) - set(chat.globals)
            self.is_chat = "messages" in names
            self.fields = sorted(names.difference(GIVEN) if self.is_chat else names)
            self.required = ["messages"] if self.is_chat else []
            compiler = chat if self.is_chat else make_environment(RequiredField, [Generation])
            self.template = compiler.from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{origin}, line {error.lineno}: not a Jinja template ({error.message})") from None
        calls = tree.find_all(nodes.ExtensionAttribute)
        self.marks_responses = any(call.identifier == Generation.identifier for call in calls)
        read = keys(tree) if self.marks_responses else {"role", *keys(tree)}
        self.message_keys = [key for key in ("role", "content") if key in read]
        if not (self.marks_responses or self.is_chat):
            raise DataError(
                f"{origin}: no response in the template; write what is to be learnt within "
                "{% generation %}…{% endgeneration %}"
            )

    def parts(self, record: dict[str, Any]) -> list[Part]:
        """What it makes of a record, in order. A response may be empty: the end of the document still is one then.

        Raises DataError where it can't, and MissingFieldError for a field that it reads and the record lacks.
        """
        if self.is_chat:
            check_messages(record.get("messages"), self.message_keys)
            record = OPTIONAL | record
        parts = self.marked_parts(record) if self.marks_responses else self.message_parts(record)
        parts = [part._replace(text=with_boundaries(part.text)) for part in parts]
        return [part for part in parts if part.text or part.counted] or [Part("", False)]

    def divide(self, record: dict[str, Any]) -> tuple[str, str]:
        """The text in front of the last response, with its start and end tokens, and that response up to its end token;
        all of it and nothing where there is none."""
        parts = self.parts(record)
        last = max((number for number, part in enumerate(parts) if part.counted), default=len(parts))
        response = parts[last].text if last < len(parts) else ""
        up_to_end = itertools.takewhile(lambda content: content is not BoundaryToken.END, contents_of(response))
        return join_texts(part.text for part in parts[:last]), str(WrittenText(up_to_end))

    def prompt(self, record: dict[str, Any]) -> str:
        return self.divide(record)[0]

    def response(self, record: dict[str, Any]) -> str:
        return self.divide(record)[1]

    def marked_parts(self, record: dict[str, Any]) -> Iterator[Part]:
        generation = self.template.environment.extensions[Generation.identifier]
        generation.marks = 0
        text = self.render(record)
        texts = RESPONSE.split(text)
        if not len(texts) // 2 == generation.marks == text.casefold().count(MARK) / 2:
            raise DataError(
                "what the template writes within {% generation %}…{% endgeneration %} is changed, left out or written "
                "twice by what stands around it, or holds another response; write each response where it is marked"
            )
        for number, part in enumerate(texts):
            yield Part(part, number % 2 == 1)

    def message_parts(self, record: dict[str, Any]) -> Iterator[Part]:
        messages, done = record["messages"], ""
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self.render(record | {"messages": messages[:number]}, add_generation_prompt=True)
                after = self.render(record | {"messages": messages[: number + 1]})
                yield Part(rest(before, done), False)
                yield Part(rest(after, before), True)
                done = after
        yield Part(rest(self.render(record), done), False)

    def render(self, record: dict[str, Any], add_generation_prompt: bool = False) -> str:
        """The text, with marks around responses and in the place of start and end tokens, which the tokenizer knows."""
        special = dict(zip(("bos_token", "eos_token"), BOUNDARIES, strict=True))
        special |= {"add_generation_prompt": add_generation_prompt} if self.is_chat else {}
        try:
            return self.template.render(special | record)
        except DataError:
            raise
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(f"the template can't be filled in ({type(error).__name__}: {error})") from None


def with_boundaries(text: str) -> str:
    """A text with the start and end tokens that are marked in it. Raises DataError where a mark was changed."""
    contents = [BOUNDARIES.get(part, part) for part in BOUNDARY.split(text)]
    if any(mark in content.casefold() for content in contents if isinstance(content, str) for mark in BOUNDARIES):
        raise DataError("what stands around bos_token or eos_token in the template changes it; write it by itself")
    return join_texts([WrittenText(contents)])


def keys(tree: nodes.Template) -> set[str]:
    """The names that a template reads of objects: `message.role`, `message['role']`."""
    constants = (node.arg for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const))
    return {node.attr for node in tree.find_all(nodes.Getattr)} | {constant.value for constant in constants}


def check_messages(messages: Any, needed: list[str]) -> None:
    """Raises DataError unless these are objects that have the keys `needed`; one that makes a call needs no content."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError("the field 'messages' is not a list of objects with role and content")
    for number, message in enumerate(messages):
        for key in needed:
            if key not in message and not (key == "content" and any(call in message for call in CALLS)):
                there = ", ".join(map(repr, message)) or "none"
                raise DataError(
                    f"messages[{number}] has no {key!r}; there: {there}; rename its keys, or the template's"
                )


def rest(text: str, beginning: str) -> str:
    """What follows `beginning`. Raises DataError where the text begins otherwise."""
    if not text.startswith(beginning):
        raise DataError(
            "the chat template writes fewer messages otherwise than as the beginning of all; mark the responses in it "
            "with {% generation %}…{% endgeneration %}"
        )
    return text.removeprefix(beginning)


def read_template(text: str) -> tuple[str, str]:
    """The source of a template, and its name in messages: that of the file that `text` names, or `text` itself."""
    if "{{" in text or "{%" in text:
        return text, "template"
    path = expand_home(text)
    try:
        return Path(path).read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"template {text!r}: can't be read ({reason}); a template is a file, or Jinja with braces"
        ) from None
