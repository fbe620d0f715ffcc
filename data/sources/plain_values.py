"""Values of records as plain Python values, whatever source they come from: what templates are given."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np

from data.errors import DataError

PLAIN = (str, int, float, bool, type(None))
WRITTEN = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)  # parquet has them, JSON does not


def plain_value(value: Any, origin: str) -> Any:
    """A value as text, number, bool, None, list or dict, and so all that it holds: TFDS gives numbers and lists as
    arrays, and text in them as bytes. Raises DataError for what is none of them."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist() if value.dtype.kind in "biuf" else plain_value(value.tolist(), origin)
    if isinstance(value, dict):
        return {name: plain_value(item, origin) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, origin) for item in value]
    if isinstance(value, bytes):
        return decoded(value, origin)
    if isinstance(value, WRITTEN):
        return str(value)
    raise DataError(f"{origin} holds a {type(value).__name__}, which is no text, number or list")


def decoded(value: bytes, origin: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{origin} holds bytes that are no text in UTF-8 ({error})") from None
