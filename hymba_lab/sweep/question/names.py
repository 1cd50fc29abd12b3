"""Names that every reader of a result takes alike, or that are refused where they stand.

An axis becomes a parameter of MLflow, a column of CSV files and of the table; a label becomes a
line of LaTeX, HTML and Markdown. Each of them rewrites something: MLflow all but a few characters,
databases the case, typesetters white space, Unicode the ways to write one letter. Two names that
are one afterwards would mix two columns in silence.
"""

import re
import unicodedata
from collections.abc import Iterable

from hymba_lab.runs.tracking import param_name
from hymba_lab.sweep.question.file import Sweep

MOST = 120  # characters; MLflow takes 250 for a parameter, a file system 255 bytes for a folder


def check_names(sweep: Sweep) -> None:
    """Refuse names of axes and choices that another system would cut, merge or lose."""
    taken = {_column(path): f"the searched path {path!r}" for path in sweep.file.search}
    for axis, choices in sweep.file.axes.items():
        place: list[str | int] = ["axes", axis]
        _check_text(sweep, place, axis)
        if axis.startswith(("val/", "cost/", "train/")):
            raise sweep.wrong(place, "begins like a metric; its column would be overwritten.")
        other = taken.setdefault(_column(axis), f"the axis {axis!r}")
        if other != f"the axis {axis!r}":
            raise sweep.wrong(
                place, f"and {other} are one name to MLflow ({param_name(axis)!r}); rename one."
            )
        _check_labels(sweep, place, choices)


def _check_labels(sweep: Sweep, place: list[str | int], labels: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        _check_text(sweep, [*place, label], label)
        other = seen.setdefault(_shown(label), label)
        if other != label:
            raise sweep.wrong(
                [*place, label], f"is printed like the label {other!r}; rename one of the two."
            )


def _check_text(sweep: Sweep, place: list[str | int], text: str) -> None:
    if not text.strip():
        raise sweep.wrong(place, "is an empty name; give it letters.")
    if len(text) > MOST:
        raise sweep.wrong(place, f"is a name of {len(text)} characters; {MOST} are allowed.")
    if text != text.strip():
        raise sweep.wrong(place, f"{text!r} begins or ends with a space; take it away.")
    odd = next((letter for letter in text if not letter.isprintable()), None)
    if odd is not None:
        raise sweep.wrong(
            place, f"{text!r} holds {odd!r}, which tables cannot show; use letters and spaces."
        )


def _column(axis: str) -> str:
    """Return what is left of an axis's name where case and most characters do not count."""
    return param_name(unicodedata.normalize("NFKC", axis)).casefold()


def _shown(label: str) -> str:
    """Return a label as it is printed: one way to write a letter, single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", label))
