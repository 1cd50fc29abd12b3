"""What every command line shares: `--set`, stores, and errors without a traceback."""

import argparse
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hymba_lab.errors import TrialFailed, UserError
from hymba_lab.places import keep_matplotlib_here


def parser(command: str, about: str) -> argparse.ArgumentParser:
    """Return a parser for `hymba-lab <command> FILE`."""
    made = argparse.ArgumentParser(prog=f"hymba-lab {command}", description=about)
    made.add_argument("file", type=Path, metavar="FILE.yaml")
    made.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="overrides",
        help="override one value, e.g. --set model.d_model=128; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR",
        help="where runs/, mlflow.db and mlartifacts/ stand (default: this folder)",
    )  # fmt: skip
    made.add_argument(
        "--tracking-uri", metavar="URI", default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite:///DIR/mlflow.db)",
    )  # fmt: skip
    return made


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


def span(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 05 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{hours} h {minutes:02} min" if not days else f"{days} d {hours} h"


def precision(name: str) -> str:
    """Return a precision under torch's name, given as bf16 or bfloat16 alike."""
    return PRECISIONS.get(name, name)


def short_precision(name: str) -> str:
    """Return a precision under its short name, given as bf16 or bfloat16 alike."""
    return {long: short for short, long in PRECISIONS.items()}.get(name, name)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add `--plugin FILE` to a command that loads a run or a checkpoint."""
    parser.add_argument(
        "--plugin", type=Path, action="append", default=[], metavar="FILE.py", dest="plugins",
        help="run this code for the components that the checkpoint names; may be repeated. "
        "Without it only plugins run that ran in an experiment of yours before",
    )  # fmt: skip


def _plugins_place(error: BaseException) -> str | None:
    """Return the line of a plugin that an error came from; None where it is no plugin's."""
    loaded = sys.modules.get("hymba_lab.config.plugins")  # if not, no plugin has run
    return loaded.place_of(error) if loaded else None


def callable_package(name: str, module: str, function: str) -> None:
    """Let a package be called: `hymba_lab.sweep(...)` is `function` of `module`, imported then.

    A package's name is taken by the package itself once anything in it was imported, so a function
    of the same name beside it would be there on some days only.
    """

    class Called(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(import_module(module), function)(*arguments, **options)

    sys.modules[name].__class__ = Called


def run(main: Callable[[Sequence[str] | None], int]) -> None:
    """Exit with main()'s code; 2 and one message for what the user can mend, 130 for Ctrl-C."""
    keep_matplotlib_here()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows ? for the rest
            stream.reconfigure(errors="replace")
    try:
        code = main(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except TrialFailed as error:
        print(f"error: the run failed: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what is left, silently
        print("stopped; the same command goes on from here.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, SystemExit) as error:
        if (place := _plugins_place(error)) is None:
            raise
        print(f"error: {place}: {type(error).__name__}: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
