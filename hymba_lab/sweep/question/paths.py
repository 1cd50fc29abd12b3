"""What a sweep may vary: paths that the base experiment has, each with one owner."""

from itertools import combinations, product

from hymba_lab.errors import ConfigError, suggest
from hymba_lab.sweep.question.file import Sweep
from hymba_lab.tables.columns import TAKEN

# what makes runs incomparable when it differs: the data and the budget
_SHARED = ("data", "training.seq_len", "training.tokens", "scale", "plugins")


def check_axes(sweep: Sweep) -> None:
    """Every path exists, may vary, and has one owner."""
    if not sweep.file.axes:
        raise sweep.wrong(["axes"], "is empty; name at least one axis with two choices.")
    owners: dict[str, str] = dict.fromkeys(sweep.file.set, "set")
    for path, other in product(sweep.file.search, sweep.file.set):
        if overlap(path, other):
            raise sweep.wrong(["search", path], f"and set: {other}; one path has one owner.")
    owners |= dict.fromkeys(sweep.file.search, "search")
    for axis, choices in sweep.file.axes.items():
        if axis in TAKEN:
            raise sweep.wrong(["axes", axis], "is a column of the table of runs; rename the axis.")
        if len(choices) < 2:
            raise sweep.wrong(["axes", axis], "has fewer than two choices; there is no comparison.")
        for label, patch in choices.items():
            _check_patch(sweep, ["axes", axis, label], list(patch))
        paths = sorted({path for patch in choices.values() for path in patch})
        for path, (other, owner) in product(paths, owners.items()):
            if overlap(path, other):
                said = f"sets {path}, and {owner} sets {other}; one path has one owner."
                raise sweep.wrong(["axes", axis], said)
        owners.update(dict.fromkeys(paths, f"axis {axis!r}"))
    for text, (path, owner) in product(sweep.overrides, owners.items()):
        if owner != "set" and overlap(text.partition("=")[0].strip(), path):
            place = sweep.document.where(["search" if owner == "search" else "axes"])
            raise ConfigError(
                f"--set {text}: {owner} of {place} sets {path}; one path has one owner: change it "
                "there."
            )


def _check_patch(sweep: Sweep, place: list[str | int], paths: list[str]) -> None:
    for path in paths:
        require_variable(sweep, [*place, path], path)
    for one, other in combinations(paths, 2):
        if overlap(one, other):
            raise sweep.wrong(place, f"sets {one} and {other}; one lies inside the other.")


def require_variable(sweep: Sweep, place: list[str | int], path: str) -> None:
    """Refuse a path that the base lacks, or that all rows of one table must share."""
    require_path(sweep, place, path)
    for fixed in _SHARED:
        if overlap(path, fixed):
            raise sweep.wrong(
                place, f"all rows of a table share {fixed}; make one sweep for each value."
            )


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other or lies inside it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def require_path(sweep: Sweep, place: list[str | int], path: str) -> None:
    """Refuse a path that the base experiment lacks, naming the nearest."""
    steps = path.split(".")
    for depth in range(1, len(steps) + 1):
        try:
            sweep.base_document.get(".".join(steps[:depth]))
        except KeyError:
            above = ".".join(steps[: depth - 1])
            holder = sweep.base_document.get(above) if above else sweep.base_document.data
            known = list(holder) if isinstance(holder, dict) else []
            raise sweep.wrong(
                place, f"{sweep.file.base} has no {path}: no key {steps[depth - 1]!r}"
                + suggest(steps[depth - 1], known)
            ) from None  # fmt: skip
