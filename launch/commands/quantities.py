"""Counts, sizes and times in few characters, for what commands print to a person."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def format_size(size: int) -> str:
    """Bytes in few characters: 1234567 -> 1.23 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def format_age(seconds: float) -> str:
    """How long ago something was: 7200 -> 2 hours ago."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{count(int(seconds // unit), name)} ago"
    return "just now"
