"""The requests of `skald generate --prompts FILE`: JSON lines, all checked before any is served."""

from __future__ import annotations

import json
from pathlib import Path

from data.errors import DataError
from launch.inference.request import TextRequest, read_request


def read_requests(file: Path, defaults: TextRequest) -> list[TextRequest]:
    """The requests of a file, a line each; empty lines are none. `defaults`: of what a line does not say.

    Raises DataError with the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a JSON string may hold U+2028, where splitlines cuts
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't read prompts ({error})") from None
    requests = [read_line(line, f"{file}:{number}", defaults) for number, line in enumerate(lines, 1) if line.strip()]
    if not requests:
        raise DataError(f'{file}: no prompts in it; each line is {{"prompt": "…"}} or a JSON string')
    return requests


def read_line(line: str, origin: str, defaults: TextRequest) -> TextRequest:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        shown = line.strip()[:60]
        raise DataError(f'{origin}: each line is {{"prompt": "…"}} or a JSON string, not {shown}') from None
    try:
        return read_request(value, defaults)
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
