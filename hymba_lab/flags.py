"""Options that several commands have: they mean the same in each of them."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def whole(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """Return the type of an option that takes whole numbers from `low` to `high`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return value

    return number


integer = whole(-(2**63))
"""The type of an option whose bounds its command knows."""


def number(text: str) -> float:
    """Return the finite number that an option was given."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def precision(name: str) -> str:
    """Return a precision under torch's name, given as bf16 or bfloat16 alike."""
    return PRECISIONS.get(name, name)


def short_precision(name: str) -> str:
    """Return a precision under its short name, given as bf16 or bfloat16 alike."""
    return {long: short for short, long in PRECISIONS.items()}.get(name, name)


def add(parser: argparse.ArgumentParser, *names: str, **changed: Any) -> None:
    """Add the options of these names; `changed` replaces their default or their help.

    `plugin` lets a command that loads a run or a checkpoint run the code that it names.
    """
    for name in names:
        facts = {**_SHARED[name], **changed}
        if changed.get("default") is not None and "help" not in changed:
            facts["help"] = f"{facts['help'].split(' (default')[0]} (default: {changed['default']})"
        if isinstance(facts.get("default"), list):
            facts["default"] = []  # one of its own: a command may add to it
        parser.add_argument(f"--{name}", *facts.pop("also", ()), **facts)


_SHARED: dict[str, dict[str, Any]] = {
    "set": {
        "action": "append", "default": [], "metavar": "PATH=VALUE", "dest": "overrides",
        "help": "override one value, e.g. --set model.d_model=128; may be repeated",
    },
    "root": {
        "type": Path, "default": Path(), "metavar": "DIR",
        "help": "where runs/, mlflow.db and mlartifacts/ stand (default: this folder)",
    },
    "tracking-uri": {
        "metavar": "URI", "default": os.environ.get("MLFLOW_TRACKING_URI"),
        "help": "MLflow store (default: MLFLOW_TRACKING_URI, or sqlite:///DIR/mlflow.db)",
    },
    "out": {
        "type": Path, "metavar": "DIR", "help": "where the results go",
    },
    "seed": {
        "type": whole(0), "metavar": "N",
        "help": "draw the same tokens again (default: others every time)",
    },
    "threads": {
        "type": whole(1, 4096), "metavar": "N", "help": "torch threads (default: torch's)",
    },
    "device": {
        "metavar": "NAME", "help": "default: cuda where there is one, else cpu",
    },
    "dtype": {
        "type": precision, "choices": list(PRECISIONS.values()),
        "help": "also fp32, bf16, fp16 (default: the checkpoint's)",
    },
    "batch-size": {
        "also": ("--batch",), "type": integer, "default": 32, "metavar": "N",
        "help": "texts at once (default: 32)",
    },
    "max-new-tokens": {
        "type": whole(-(2**63), 2**24), "default": 64, "metavar": "N",
        "help": "of each answer (default: 64)",
    },
    "temperature": {
        "type": number, "default": 0.0, "metavar": "X", "help": "default: 0, the likeliest",
    },
    "top-k": {
        "type": integer, "metavar": "N", "help": "draw from the N likeliest tokens only",
    },
    "top-p": {
        "type": number, "metavar": "P", "help": "draw from the likeliest that hold P together",
    },
    "json": {
        "action": "store_true", "help": "print plain data",
    },
    "plugin": {
        "type": Path, "action": "append", "default": [], "metavar": "FILE.py", "dest": "plugins",
        "help": "run this code for the components that the checkpoint names; may be repeated. "
        "Without it only plugins run that ran in an experiment of yours before",
    },
}  # fmt: skip
