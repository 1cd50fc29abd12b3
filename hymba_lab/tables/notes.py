"""What stands under a result table: scale, method, what is missing, what to beware of."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from hymba_lab.stats import Comparison, Looks, Pairing

UNEVEN_SPEED = 1.5  # fastest through slowest seed of one row: more is the machine, not the model
PARAMS_TOLERANCE = 2.0  # percent; beyond it a row may win by size alone

Values = Mapping[str, Mapping[int, float]]


def known_value(column: "pd.Series[Any]", default: Any) -> Any:
    """The one value that `tables.guard` found in a column, runs that know none left aside."""
    return next((value for value in column.dropna() if value != ""), default)


_ENDS = "Bonferroni; one that ends at no difference tells the direction alone"


def scale_note(runs: pd.DataFrame) -> str:
    """At which scale and budget the runs are."""
    scale, budget = known_value(runs["scale"], "unknown"), known_value(runs["tokens"], math.nan)
    told = "unknown" if math.isnan(budget) else f"{int(budget):,}"
    return f"Results at scale {scale!r}, {told} training tokens per run; not the paper's scale."


def method_note(baseline: str, n_rows: int, alpha: float, pairing: Pairing) -> str:
    """How verdicts and intervals were made."""
    return (
        f"Effect: row minus {baseline!r}; verdicts by two-sided t-tests with moderated variances, "
        f"alpha = {alpha:g} over the table's {n_rows} comparisons (Holm), intervals of effects "
        f"simultaneous ({_ENDS}); intervals of means each at {100 * (1 - alpha):g} %. {pairing}"
    )


def times_note(baseline: str, n_rows: int, alpha: float, pairing: Pairing | None = None) -> str:
    """How verdicts on times were made, or that there was no test to make.

    `pairing` is that of the rows that all solved, where there are two of them.
    """
    censored = (
        "Censored: a side ended before it had solved; its bound counts it as solved at its end."
    )
    if not n_rows:
        return (
            f"Effect: training tokens until solved over those of {baseline!r}. No row is tested: a "
            "t-test needs two seeds a row that all solved, the log-rank test, which can take runs "
            f"that did not, needs six seeds and some that did. {censored}"
        )
    return (
        f"Effect: training tokens until solved over those of {baseline!r}; moderated t-tests of "
        "their logarithms where every run solved, the log-rank test from six seeds where some did "
        f"not, alpha = {alpha:g} over the table's {n_rows} tests (Holm), intervals simultaneous "
        f"({_ENDS}). "
        f"{censored}{f' {pairing}' if pairing else ''}"
    )


def equivalence_note(n_rows: int, alpha: float, margin: str) -> str:
    """How "equivalent within" was shown."""
    return (
        f"Equivalent within {margin}: by two one-sided t-tests (TOST) at alpha = "
        f"{alpha:g} of their own over the table's {n_rows} comparisons (Holm); the two-sided "
        "interval beside it is wider and may reach beyond the margin."
    )


def look_notes(comparisons: Sequence[Comparison], looks: Looks | None, alpha: float) -> list[str]:
    """How many looks there were, what they spent, and which row was decided at which."""
    if looks is None:
        return []
    ends = [
        f"{found.label} at {looks.sizes[found.look - 1]}" for found in comparisons if found.decided
    ]
    undecided = [found.label for found in comparisons if not found.decided]
    spent = ", ".join(f"{alpha * share:.3g}" for _, share in looks)
    return [
        f"Seeds were added to undecided rows and the baseline only, in at most {len(looks.sizes)} "
        f"looks, at {', '.join(map(str, looks.sizes))} seeds; they may spend {spent} of alpha = "
        f"{alpha:g}, so verdicts and intervals hold over all looks together. Decided: "
        f"{', '.join(ends) or 'none'}. Undecided after the last look: "
        f"{', '.join(undecided) or 'none'}. The effect of a row that was decided early is on "
        "average too large."
    ]


def missing_notes(
    runs: pd.DataFrame, values: Values, metric: str, expected: Mapping[str, Collection[int]]
) -> list[str]:
    """Which of the `expected` seeds (by row) have no value, and why."""
    why = {
        (str(row), int(seed)): _absence(str(status), str(reason or ""), metric)
        for row, seed, status, reason in zip(
            runs["row"], runs["seed"], runs["status"], runs["reason"].fillna(""), strict=True
        )
    }
    notes = []
    for row, measured in values.items():
        seeds = sorted(expected[row])
        absent = [seed for seed in seeds if not math.isfinite(measured.get(seed, math.nan))]
        if absent:
            told = "; ".join(f"seed {seed} {why.get((row, seed), 'never run')}" for seed in absent)
            notes.append(f"Not measured, {row}: {len(absent)} of {len(seeds)} seeds ({told}).")
    return notes


def expected_seeds(
    values: Values, comparisons: Sequence[Comparison], looks: Looks | None
) -> dict[str, set[int]]:
    """The seeds that every row should have: all of the table's, or those of its last look."""
    if looks is None:
        everyone = {seed for row in values.values() for seed in row}
        return dict.fromkeys(values, everyone)
    n_looks = {found.label: found.look for found in comparisons}
    last = max(n_looks.values(), default=1)
    return {
        row: {*seeds, *looks.seeds[: looks.sizes[n_looks.get(row, last) - 1]]}
        for row, seeds in values.items()
    }


def _absence(status: str, reason: str, metric: str) -> str:
    what = f"finished without a finite {metric}" if status == "finished" else status
    return f"{what}: {reason}" if reason else what


def stopped_notes(runs: pd.DataFrame, also: Sequence[str]) -> list[str]:
    """Which columns are of runs that ended at different tokens, where solving a task ended them."""
    if "tokens_trained" not in runs or not also:
        return []
    ended = pd.to_numeric(runs.loc[runs["status"] == "finished", "tokens_trained"]).dropna()
    if ended.empty or ended.max() <= ended.min():
        return []
    return [
        f"{', '.join(also)}: at the end of each run, which came after {int(ended.min()):,} to "
        f"{int(ended.max()):,} tokens, sooner where the task was solved sooner: rows do not "
        "compare in them."
    ]


def flag_notes(frame: pd.DataFrame) -> list[str]:
    """Which rows differ in size by so much that size alone may explain their effect."""
    flagged = ", ".join(frame.loc[frame["params_flagged"], "row"])
    if not flagged:
        return []
    return [f"(!) Parameters more than {PARAMS_TOLERANCE:g} % off the baseline's: {flagged}."]


def speed_notes(runs: pd.DataFrame) -> list[str]:
    """Whether tokens/s says nothing about rows: an uneven machine, or code of several days."""
    finished = runs[runs["status"] == "finished"]
    speeds = pd.to_numeric(finished["tokens_per_second"]).groupby(finished["row"])
    most, n_commits = float((speeds.max() / speeds.min()).max()), finished["commit"].nunique()
    why = [
        f"seeds of one row differ by up to {most:.1f} times" if most > UNEVEN_SPEED else "",
        f"the runs are of {n_commits} commits" if n_commits > 1 else "",
    ]
    if not any(why):
        return []
    return [
        f"tokens/s is not comparable here: {' and '.join(filter(None, why))}. Rows cost what their "
        "FLOPs say; benchmarks/ measures speed."
    ]
