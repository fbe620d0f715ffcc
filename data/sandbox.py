"""Jinja's sandbox for templates of records, and what such a template may not write. data/templates.py fills them in."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import compiler, ext, nodes, sandbox
from jinja2.utils import missing

from data.errors import DataError, MissingFieldError

TEXT_FILTERS = ("capitalize", "center", "indent", "lower", "replace", "string", "title", "trim", "truncate", "upper")


class RequiredField(jinja2.StrictUndefined):
    """A field that a record lacks: `is defined` says so, and what else reads it raises MissingFieldError."""

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[Exception] = jinja2.UndefinedError,
    ):
        if hint is None and obj is missing:
            hint, exc = f"no field {name!r}", MissingFieldError
        super().__init__(hint, obj, name, exc)


class NullChecked(compiler.CodeGenerator):
    """Compiles templates so that what `~` joins is checked as what is written is."""

    def visit_Concat(self, node: nodes.Concat, frame: compiler.Frame) -> None:
        self.write("str_join((")
        for part in node.nodes:
            self.write("environment.finalize(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")


class Environment(sandbox.ImmutableSandboxedEnvironment):
    code_generator_class = NullChecked


def make_environment(undefined: type[jinja2.Undefined], extensions: Sequence[type[ext.Extension]]) -> Environment:
    """Jinja's sandbox as Hugging Face sets it up for chat templates; null is refused where it is written out."""
    made = Environment(
        undefined=undefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[*extensions, "jinja2.ext.loopcontrols"],
        finalize=check_written,
    )
    made.globals["raise_exception"] = refuse
    made.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # Jinja's own writes < as \\u003c
    made.filters |= {name: check_filtered(made.filters[name]) for name in TEXT_FILTERS}
    return made


def check_written(value: Any) -> Any:
    """A value that a template writes out. Raises DataError for null: Jinja would write the word None."""
    if value is None:
        raise DataError(
            "the template writes a value that is null; write {{ x or '' }} in place of {{ x }} where it may be"
        )
    return value


def check_filtered(text_filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of text that takes no null. Some of Jinja's take an environment or context before the value."""
    place = int(hasattr(text_filter, "jinja_pass_arg"))

    @functools.wraps(text_filter)
    def checked(*arguments: Any, **named: Any) -> Any:
        check_written(arguments[place])
        return text_filter(*arguments, **named)

    return checked


def refuse(message: str) -> NoReturn:
    raise jinja2.TemplateRuntimeError(message)
