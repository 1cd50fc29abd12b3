"""The lines of anybody's table as runs: which ended well, which row and seed, which are alike."""

from collections.abc import Iterable, Sequence

import pandas as pd

from hymba_lab.errors import UserError, suggest
from hymba_lab.tables.frame_cells import is_missing, key
from hymba_lab.tables.frame_columns import column, where

_STATES = ("status", "Status", "State", "state")
_ENDED_WELL = ("finished", "completed", "complete", "success", "succeeded", "done", "ok")
_ELSE = (
    "failed", "fail", "failure", "crashed", "killed", "running", "scheduled", "pending", "queued",
    "waiting", "preempted", "preempting", "pruned", "missing", "timeout", "cancelled", "canceled",
    "error", "stopped", "stopping", "aborted", "interrupted",
)  # fmt: skip
_IDS = ("run_id", "Run ID", "ID", "id")


def states_of(frame: pd.DataFrame) -> list[str]:
    """Return "" for every run that ended well, and how it ended for the others.

    Where no column says how runs ended, they all ended well; a column `state` that holds no word
    of that kind is one of something else.
    """
    for name in _STATES:
        if name not in frame:
            continue
        said = ["" if is_missing(one) else str(one).strip().lower() for one in column(frame, name)]
        if {*_ENDED_WELL, *_ELSE} & set(said):
            return ["" if one in _ENDED_WELL else one for one in said]
    return [""] * len(frame)


def the_row(frame: pd.DataFrame, row: str, name: str, labels: Iterable[str]) -> str:
    """Return which label is meant by a name, also where the file writes 1.0 and the name is 1.

    Raises UserError where there is none.
    """
    known = list(dict.fromkeys(labels))
    alike = [name] if name in known else [label for label in known if key(label) == key(name)]
    if len(alike) != 1:
        raise UserError(f"{where(frame)}no row {name!r} in column {row!r}{suggest(name, known)}")
    return alike[0]


def seed_numbers(
    frame: pd.DataFrame, labels: Sequence[str], row: str, seed: str | None
) -> list[int]:
    """Return a number per run, the same in two rows only where their seeds are the same.

    Without a column of seeds no two runs share one: the order of lines says nothing, and rows that
    were sorted by their result would look as if their seeds went up and down together.

    Raises UserError where a (row, seed) is there twice: a run counted twice is no evidence.
    """
    if seed is None:
        _refuse_copies(frame)
        return list(range(len(labels)))
    values = column(frame, seed)
    numbers: dict[str, int] = {}
    seen: dict[tuple[str, int], int] = {}
    for at, (label, value) in enumerate(zip(labels, values, strict=True)):
        if is_missing(value):
            raise UserError(
                f"{where(frame, at)}a run of {label!r} has no {seed}; name it, or leave --seed out."
            )
        number = numbers.setdefault(key(value), len(numbers))
        if (first := seen.setdefault((label, number), at)) != at:
            raise UserError(
                f"{where(frame, first, at)}{row} {label!r} has more than one run with {seed} "
                f"{value!r}: a run that is counted twice is no evidence, nor is every step of it. "
                "Remove the copies, or name the column that tells the runs apart with --seed."
            )
    return [numbers[key(value)] for value in values]


def _refuse_copies(frame: pd.DataFrame) -> None:
    """Raise UserError where a column names runs, and one of them has several lines."""
    for name in (one for one in _IDS if one in frame):
        first: dict[str, int] = {}
        for at, value in enumerate(column(frame, name)):
            if not is_missing(value) and first.setdefault(str(value), at) != at:
                raise UserError(
                    f"{where(frame, first[str(value)], at)}{name} {value!r} has more than one "
                    "line: a line is to be a run, not a step of one. Keep one line of each, or "
                    "name the column that tells the runs apart with --seed."
                )


def refuse_unequal(frame: pd.DataFrame, name: str, labels: Sequence[str]) -> None:
    """Raise UserError where the runs do not all have one value of a column."""
    kinds: dict[str, list[str]] = {}
    for label, value in zip(labels, column(frame, name), strict=True):
        kinds.setdefault("missing" if is_missing(value) else key(value), []).append(label)
    if len(kinds) > 1:
        shown = [f"{kind}: {some(dict.fromkeys(own))}" for kind, own in kinds.items()]
        raise UserError(
            f"{where(frame)}runs differ in {name!r} ({some(shown, '; ')}): a difference between "
            f"rows could be that of {name}. Compare runs of one value."
        )


def some(words: Iterable[str], between: str = ", ", most: int = 8) -> str:
    """Return the first of many words, and how many more there are."""
    given = list(words)
    more = [f"and {len(given) - most} more"] if len(given) > most else []
    return between.join([*given[:most], *more])
