"""One sweep at several scales: does the effect of a row grow or shrink with the size?"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hymba_lab.errors import UserError
from hymba_lab.stats import Slope, slopes
from hymba_lab.tables.display import Column, Second
from hymba_lab.tables.numbers import estimate, number
from hymba_lab.tables.runs_frame import guard, values_by_seed


@dataclass(frozen=True)
class AtScale:
    """The compared runs of a sweep at one scale, as `tables` wants them, and their baseline."""

    scale: str
    runs: pd.DataFrame
    baseline: str


def slope_table(
    sizes: Sequence[AtScale], metric: str, *, alpha: float = 0.05, timed: bool = False
) -> Second:
    """The slope of every row's effect per tenfold parameters of the baseline (see `stats.slopes`).

    The frame's columns: row, scales, slope, low, high, freedom, p, p_holm, verdict. A row is the
    same at two scales when its label is, but for the numbers that a scale puts into it. Where rows
    are `timed`, the effect is that on the log of the tokens until the task was solved, of rows of
    which every run did: the level at the end says when a run was stopped.
    Raises UserError for fewer than two scales or rows that cannot be told.
    """
    if len(sizes) < 2:
        raise UserError("a slope over scales needs the runs of two scales or more.")
    effects: dict[str, dict[float, list[float]]] = {}
    seen: dict[str, list[str]] = {}
    names = _names(sizes)
    for at in sizes:
        guard(at.runs)
        values = _solved(at.runs) if timed else values_by_seed(at.runs, metric)
        if at.baseline not in values:
            continue
        params = float(at.runs.loc[at.runs["row"] == at.baseline, "params"].iloc[0])
        base = values[at.baseline]
        for row, seeds in values.items():
            if row != at.baseline and row in names[at.scale]:
                differences = [value - base[s] for s, value in seeds.items() if s in base]
                name = names[at.scale][row]
                effects.setdefault(name, {})[params] = differences
                seen.setdefault(name, []).append(at.scale)
    found = slopes(effects, alpha=alpha)
    scales = [", ".join(seen[one.label]) for one in found]
    frame = pd.DataFrame([_line(*pair) for pair in zip(found, scales, strict=True)])
    what = f"the log of the tokens until {metric} was solved" if timed else metric
    title = (
        f"Slope of the effect on {what} per tenfold parameters (least squares over the scales, "
        f"Satterthwaite's t, simultaneous intervals at alpha = {alpha:g}, Holm; a straight line is "
        "assumed)"
    )
    return Second("slopes", title, frame, _columns(found, scales))


def _solved(runs: pd.DataFrame) -> dict[str, dict[int, float]]:
    """The log of every run's tokens until it solved its task, of the rows of which all did."""
    times = values_by_seed(runs, "tokens_to_solve")
    return {
        row: {seed: math.log(tokens) for seed, tokens in own.items()}
        for row, own in times.items()
        if own and all(math.isfinite(tokens) and tokens > 0 for tokens in own.values())
    }


def _names(sizes: Sequence[AtScale]) -> dict[str, dict[str, str]]:
    """{scale: {row: its label at the first scale}}: by place where labels differ in numbers only,
    otherwise by label."""
    rows = {at.scale: [str(row) for row in at.runs["row"].unique()] for at in sizes}
    first = rows[sizes[0].scale]
    return {
        scale: dict(zip(own, first, strict=True))
        if list(map(_bare, own)) == list(map(_bare, first))
        else {row: row for row in own}
        for scale, own in rows.items()
    }


def _bare(label: str) -> str:
    return re.sub(r"\d+", "#", label)


def _line(one: Slope, scales: str) -> Mapping[str, object]:
    return {
        "row": one.label, "scales": scales, "slope": one.slope, "low": one.low, "high": one.high,
        "freedom": one.freedom, "p": one.p, "p_holm": one.p_holm, "verdict": _verdict(one),
    }  # fmt: skip


def _verdict(one: Slope) -> str:
    if one.p != one.p:
        return "too few scales or seeds"
    if not one.detected:
        return "no detectable change"
    return "rises with size" if one.slope > 0 else "falls with size"


def _columns(found: Sequence[Slope], scales: list[str]) -> list[Column]:
    shown = [estimate(one.slope, one.low, one.high, signed=True) for one in found]
    return [
        Column("row", [one.label for one in found], False, "label"),
        Column("scales", scales, False, "label"),
        Column("effect per tenfold size", shown, True),
        Column("degrees of freedom", [number(one.freedom, 1) for one in found], True),
        Column("verdict", [_verdict(one) for one in found], False),
    ]
