"""One field of anybody's table of runs: a number, a word, yes or no, or nothing."""

import math
import re
from typing import Any

import numpy as np
import pandas as pd

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_ENDLESS = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_MISSING = ("", "na", "n/a", "nan", "none", "null", "<na>", "#n/a")
_TRUTH = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n"), False),
}


def is_missing(value: Any) -> bool:
    """Whether a field is empty: None, NaN or no text. The word "None" is a word."""
    if not pd.api.types.is_scalar(value):  # a list is something
        return False
    return value is None or bool(pd.isna(value)) or value == ""


def word(value: Any) -> str:
    """Return a label; pandas reads 3 as 3.0 beside an empty field."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def key(value: Any) -> str:
    """Return what two fields share that mean the same: 1, 1.0 and 1e0, or the same word."""
    text = word(value)
    if not _NUMBER.fullmatch(text):
        return text
    if _WHOLE.fullmatch(text):
        return text.lstrip("+").lstrip("0") or "0"  # every digit counts, however many there are
    return word(float(text))


def number_in(value: Any) -> float | None:
    """Return a number, NaN for what is missing, infinity where it stands there, None otherwise."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _MISSING:
            return math.nan
        known = _NUMBER.fullmatch(text) or _ENDLESS.fullmatch(text)
        return float(text) if known else None
    if is_missing(value):
        return math.nan
    try:
        return None if isinstance(value, bool | np.bool_) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_endless(value: Any) -> bool:
    """Whether infinity was meant: 1e400 is none."""
    if isinstance(value, str):
        return bool(_ENDLESS.fullmatch(value.strip()))
    return isinstance(value, float) and math.isinf(value)


def truth_in(value: Any) -> bool | None:
    """Return whether a field says yes or no, None where it says neither."""
    return _TRUTH.get(str(value).strip().lower())


def number_advice(value: Any) -> str:
    """Return what to do about a field that is no number."""
    if isinstance(value, str) and "," in value:
        return "write decimals with a point, and thousands without a comma"
    if isinstance(value, str) and value.endswith("%"):
        return "leave the % away in every field of the column"
    return "leave the field empty where nothing was measured"
