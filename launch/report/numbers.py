"""Numbers, durations and dates in few characters, for people."""

from __future__ import annotations

import datetime
import math

UNITS = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
COUNT_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))  # of tokens and parameters: the field says billions


def significant(value: float | None, digits: int = 4, trim: bool = True) -> str:
    """So many significant digits, without an exponent where few zeros do: 1.875, 0.04, 123,456.

    `trim`: without zeros at the end; they stay in a column of figures.
    """
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= digits:
        text = f"{round(value):,}"
    elif size < -4:
        text = f"{value:.{min(digits, 3) - 1}e}"
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    else:
        text = f"{value:.{max(digits - 1 - size, 0)}f}"
        text = text.rstrip("0").rstrip(".") if trim and "." in text else text
    return text.replace("-", "−")


def fixed(value: float | None, places: int) -> str:
    """So many decimal places, with a minus sign; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return significant(value)
    return f"{value:,.{places}f}".replace("-", "−")


def compact(value: float, digits: int = 3, units=COUNT_UNITS) -> str:
    """A number with a unit prefix: 99840 -> 99.8 k."""
    for size, name in units:
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{significant(value / size, digits)} {name}"
    return significant(value, digits)


def quantity(value: float | None, unit: str) -> str:
    """A measured value with a prefixed unit: 1.2e6 J -> 1.2 MJ; a dash where there is none."""
    if value is None:
        return "–"
    number, _, prefix = compact(value, 3, UNITS).partition(" ")
    return f"{number} {prefix}{unit}"


def percent(share: float | None, places: int = 1) -> str:
    return "–" if share is None else f"{fixed(100 * share, places)}%"


def interval(low_high: tuple[float, float], digits: int = 3) -> str:
    """`0.86 to 0.9`; one number where both are the same."""
    low, high = (significant(end, digits) for end in low_high)
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """1 h 2 min, 3 min 4 s, 12.3 s."""
    if seconds < 60:
        return f"{significant(seconds, 3)} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def date(seconds: float) -> str:
    """Seconds since 1970 as a date and time in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%-d %B %Y, %H:%M UTC")
