"""The JSON schemas that constrained decoding takes, checked: no text may violate one, so nothing in it is ignored.

launch/inference/grammar.py compiles them. What is refused is either unknown to the grammar library, or it would let
texts through that a reader of the schema refuses.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from launch.inference.regular_expression import PatternError, check_pattern
from model.decode.chain import SamplerError, format_chain, parse_chain
from model.decode.links.constraint import JsonSchema

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA = ("items", "additionalProperties")  # keywords whose value is a schema
SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")  # a list of schemas
NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")  # an object of schemas
VALUES = (
    "$ref", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties",
    "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "required", "type",
)  # fmt: skip
NOTES = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")  # left out
KEYWORDS = (*SCHEMA, *SCHEMAS, *NAMED_SCHEMAS, *VALUES)
# What the library's own forms of these leave open: February 29 of every year, the second 60 of every minute, year 0.
# The days of months, February 29 by the leap years of the Gregorian calendar.
YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
LONG, SHORT = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
DATE = f"(?:{YEAR}-(?:{LONG}|{SHORT}|02-(?:0[1-9]|1[0-9]|2[0-8]))|{LEAP_YEAR}-02-29)"
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {"date": f"^{DATE}$", "time": f"^{TIME}$", "date-time": f"^{DATE}T{TIME}$"}
OWN_FORMATS = ("email", "ipv4", "ipv6", "uuid")  # the library's
LARGEST = 2**53  # the last whole number that every reader of JSON tells from its neighbours
LEAST_STEP = 1e-15  # a number above 0 that readers do not round to 0


def read_schema_files(sampler: str) -> str:
    """A sampler with the content of schema files in the place of their names, checked. Raises SamplerError, DataError.

    For people at this machine alone: no server may read files that a stranger names.
    """
    chain = parse_chain(sampler)
    links = tuple(
        JsonSchema(read_file(Path(link.schema)))
        if isinstance(link, JsonSchema) and isinstance(link.schema, str)
        else link
        for link in chain.links
    )
    for link in links:
        if isinstance(link, JsonSchema):
            grammar_schema(link)
    return format_chain(dataclasses.replace(chain, links=links))


def read_file(file: Path) -> dict | bool:
    try:
        schema = json.loads(file.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SamplerError(
            f"json_schema={file}: can't read it ({error.strerror}); name a file, or write a schema"
        ) from None
    except ValueError as error:
        raise DataError(f'{file}: not JSON ({error}); a schema is an object, as {{"type": "object"}}') from None
    if not isinstance(schema, dict | bool):
        raise DataError(f'{file}: a schema is an object, as {{"type": "object"}}, not {json.dumps(schema)[:60]}')
    return schema


def grammar_schema(link: JsonSchema) -> dict | bool:
    """A link's schema as the library is to compile it: checked, without notes, and narrower where readers round.

    Raises SamplerError naming the place in the schema, what is wrong there, and what works.
    """
    from jsonschema import Draft202012Validator, SchemaError  # optional: only grammars need it

    schema = link.schema
    if isinstance(schema, str):
        raise SamplerError(f"json_schema={schema}: a file is not read here; write the schema itself")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = pointer(error.absolute_path)
        raise SamplerError(f"json_schema: {place}: {one_line(error.message)} (Draft 2020-12)") from None
    if isinstance(schema, dict):
        if schema.get("$schema", DRAFT).rstrip("#") != DRAFT:
            raise SamplerError(f"json_schema: $schema is {schema['$schema']!r}; schemas are read as Draft 2020-12")
        schema = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    return narrow(schema, ())


def narrow(schema: dict | bool, path: tuple) -> dict | bool:
    """A schema and those within it, checked, as the library is to have them."""
    if isinstance(schema, bool):
        return schema
    for problem in problems(schema):
        raise SamplerError(f"json_schema: {pointer(path)}: {problem}")
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in SCHEMA:
            result[key] = narrow(value, (*path, key))
        elif key in SCHEMAS:
            result[key] = [narrow(one, (*path, key, index)) for index, one in enumerate(value)]
        elif key in NAMED_SCHEMAS:
            result[key] = {name: narrow(one, (*path, key, name)) for name, one in value.items()}
        elif key not in NOTES:
            result[key] = value
    return narrow_bounds(narrow_format(result))


def narrow_format(schema: dict) -> dict:
    """With a pattern of our own for the formats that have one."""
    if schema.get("format") not in FORMATS:
        return schema
    pattern = {"pattern": FORMATS[schema["format"]]}
    rest = {key: value for key, value in schema.items() if key != "format"}
    return {**rest, "allOf": [*rest.get("allOf", []), pattern]} if "pattern" in rest else rest | pattern


def narrow_bounds(schema: dict) -> dict:
    """With exclusive bounds that hold for 64-bit numbers too: 0.99999999999999999 is read as 1."""
    if schema.get("type") == "integer":
        return schema
    schema = dict(schema)
    for exclusive, inclusive, sign in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if exclusive in schema:
            bound = schema.pop(exclusive)
            step = max(LEAST_STEP, abs(bound) * 2.0**-51)
            inner = bound + sign * step
            old = schema.get(inclusive, inner)
            schema[inclusive] = sign * max(sign * inner, sign * old)
    return schema


def problems(schema: dict) -> Iterator[str]:
    """What is wrong with a schema by itself, as a part of a line."""
    for key in schema:
        if key not in KEYWORDS + NOTES:
            close = difflib.get_close_matches(key, KEYWORDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"what works: {', '.join(sorted(KEYWORDS))}"
            yield f"{key!r} is not supported; {hint}"
    if not str(schema.get("$ref", "#")).startswith("#"):
        yield f"$ref is {schema['$ref']!r}; a reference stays within the schema, as '#/$defs/name'"
    if schema.get("format", "date") not in (*FORMATS, *OWN_FORMATS):
        formats = ", ".join((*FORMATS, *OWN_FORMATS))
        yield f"format {schema['format']!r} is not supported; what works: {formats}, or a pattern"
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        if not abs(schema.get(key, 0)) <= LARGEST:
            yield f"{key} is {schema[key]}; it takes numbers up to {LARGEST}"
    if not float(schema.get("multipleOf", 1)).is_integer():
        yield f"multipleOf is {schema['multipleOf']}; it takes a whole number, since readers round others"
    if schema.get("minProperties", 0) > max(1, len(schema.get("required", []))):
        yield "minProperties is more than the required ones, and a name could come twice; name them in required"
    for pattern in (*schema.get("patternProperties", {}), *([schema["pattern"]] if "pattern" in schema else [])):
        try:
            check_pattern(pattern)
        except PatternError as error:
            yield f"pattern {error}"


def pointer(path) -> str:
    """A place in a schema as JSON Pointer (RFC 6901) writes it."""
    return "#" + "".join(f"/{part}" for part in path)


def one_line(text: str) -> str:
    return " ".join(text.split())[:200]
