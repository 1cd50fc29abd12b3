"""Values of runs by seed: at the end, or after as many tokens as two rows have in common."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

Values = Mapping[int, float]


class NotRun(Exception):
    """The claim has no runs or probes at this scale; says what is missing."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: values by seed, and the runs they come from."""

    row: str
    values: Values
    identities: tuple[str, ...]


def by_seed(lines: pd.DataFrame, column: str) -> dict[int, float]:
    """{seed: mean of the column}; what is not a finite number is left out."""
    values: dict[int, list[float]] = {}
    for seed, value in zip(lines["seed"], pd.to_numeric(lines[column]), strict=True):
        values.setdefault(int(seed), []).append(float(value))
    means = {seed: math.fsum(found) / len(found) for seed, found in sorted(values.items())}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}


def tokens_of(curves: pd.DataFrame, metric: str, rows: Sequence[str]) -> int:
    """The tokens after which the first run of these rows ended; `NotRun` where none has a course.

    A run that stopped when it had solved its task has seen less of all else than one that went on.
    """
    own = curves[(curves["metric"] == metric) & curves["row"].isin(rows)]
    ends = own.groupby(["row", "seed"])["tokens"].max()
    if ends.empty or ends.isna().any():
        raise NotRun(f"no course of {metric} over tokens")
    return int(ends.min())


def values_at(curves: pd.DataFrame, metric: str, tokens: int) -> dict[str, dict[int, float]]:
    """{row: {seed: value at the last validation up to `tokens`}} of the runs that went so far."""
    own = curves[curves["metric"] == metric].sort_values("tokens")
    found: dict[str, dict[int, float]] = {}
    for _, course in own.groupby(["row", "seed"], sort=False):
        last = course[course["tokens"] <= tokens].iloc[-1:]
        value = float(last["value"].iloc[0]) if len(last) else math.nan
        if course["tokens"].max() >= tokens and math.isfinite(value):
            found.setdefault(str(last["row"].iloc[0]), {})[int(last["seed"].iloc[0])] = value
    return found
