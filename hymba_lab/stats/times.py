"""Tasks that are learned in a jump: how much sooner or later is a row than the baseline?

The time of a run is the tokens after which it has solved the task, right-censored where it ended
without. The effect of a row is the ratio of times, exp(mean log T_row - mean log T_baseline): 1.3
is 1.3 times later. Three cases:

- every run of both solved: moderated variances of log T, as in `compare`;
- some did not, six seeds or more on both sides: the log-rank test, exact where runs are few;
- some did not, fewer seeds: no verdict but "censored". The bound beside it takes every run that was
  stopped as if it had solved at once, which can only flatter its side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hymba_lab.stats.evidence import Evidence, Interval, against
from hymba_lab.stats.looks import Judged, Looks, SeedsOf, judge
from hymba_lab.stats.moderated import Spread, seen, spread_of
from hymba_lab.stats.ranks import Ranks, ranks
from hymba_lab.stats.rounding import round_up
from hymba_lab.stats.survival import Run
from hymba_lab.stats.verdicts import (
    Comparison,
    Kind,
    Setting,
    checked,
    n_seeds_of,
    seeds_that_tell,
    seeds_words,
    verdict,
)

_LARGEST = 700.0  # of the logarithms of numbers that a float holds
MARGIN = 1.2  # times within which two rows are called equivalent


def factor_of(margin: float | None) -> float:
    """Return the margin of a ratio: the one given where it is a factor, above 1, else `MARGIN`.

    Older sweeps gave one in the unit of an area, which says nothing of times.
    """
    return margin if margin is not None and margin > 1 else MARGIN


Rows = Mapping[str, Mapping[int, Run]]


Found = Evidence | Ranks


@dataclass(frozen=True)
class Timed:
    """A comparison of times, and how many runs of the row and of the baseline solved."""

    comparison: Comparison
    solved: int
    base_solved: int
    n_base: int


def compare_times(
    runs: Rows,
    baseline: str,
    *,
    alpha: float = 0.05,
    margin: float | None = MARGIN,
    looks: Looks | None = None,
    others: Sequence[Spread] = (),
    above: Mapping[str, bool] | None = None,
) -> list[Timed]:
    """Ratio and verdict of every row; `runs` is {label: {seed: Run}}, times positive.

    Comparisons are those of `compare` with ratios in place of differences (`effect`, `low`, `high`,
    `bound`, and the `margin`, which is a factor above 1); `mean` is the geometric mean of the times
    of runs that solved. `others` are variances of log T of further solved rows of the same scale.
    `above` says of rows whether their runs ended above the best guess that never looks at the
    content: where neither side solved and neither ended above it, the verdict is "not learned".
    Verdicts are Holm's over all tests of the table, of both kinds.
    """
    checked(runs, baseline, None)
    setting = Setting(
        "minimize", alpha, margin and math.log(margin), looks, n_rows=len(runs) - 1,
        n_seeds=n_seeds_of(runs),
    )  # fmt: skip
    rows = {label: {s: row[s] for s in sorted(row)} for label, row in runs.items()}
    labels = [label for label in rows if label != baseline]

    def assess(seeds: SeedsOf, share: float) -> dict[str, Found]:
        seen = {
            label: {seed: run for seed, run in row.items() if seed in seeds(label)}
            for label, row in rows.items()
        }
        return _assess(seen, baseline, others, share)

    everyone = {seed for row in rows.values() for seed in row}
    judged = judge(
        assess, labels, everyone, alpha=alpha, margin=setting.margin, looks=looks,
        n_intervals=len(labels),
    )  # fmt: skip
    learned = above or {}
    return [
        _timed(label, rows[label], rows[baseline], one, setting,
               learned.get(label, False) or learned.get(baseline, False))
        for label, one in judged.items()
    ]  # fmt: skip


def log_times(runs: Rows) -> dict[str, dict[int, float]]:
    """log T of every run, of the rows of which every run solved."""
    return {
        label: {seed: math.log(run.time) for seed, run in row.items()}
        for label, row in runs.items()
        if row and all(run.solved for run in row.values())
    }


def log_spreads(runs: Rows) -> list[Spread]:
    """The variances of log T of the rows of which every run solved, two or more of them."""
    logs = [list(row.values()) for row in log_times(runs).values()]
    return [seen(spread_of(row), row) for row in logs if len(row) > 1]


def _assess(rows: Rows, baseline: str, others: Sequence[Spread], share: float) -> dict[str, Found]:
    logs = log_times(rows)
    found: dict[str, Found] = {}
    if baseline in logs:
        found.update(against(logs, baseline, others=others, share=share)[0])
    spreads = [*log_spreads(rows), *others]
    for label, row in rows.items():
        if label != baseline and label not in found:
            found[label] = ranks(row, rows[baseline], spreads, share)
    return found


def _timed(
    label: str,
    row: Mapping[int, Run],
    base: Mapping[int, Run],
    judged: Judged[Found],
    setting: Setting,
    above: bool,
) -> Timed:
    solved, base_solved = (sum(run.solved for run in side.values()) for side in (row, base))
    found = judged.found
    if isinstance(found, Evidence):
        comparison = _measured(label, row, judged, found, setting)
    else:
        some = solved or base_solved or above
        comparison = _censored(label, row, judged, found, setting, learned=bool(some))
    return Timed(comparison, solved, base_solved, len(base))


def _measured(
    label: str, row: Mapping[int, Run], judged: Judged[Found], found: Evidence, setting: Setting
) -> Comparison:
    logs = Interval(found.effect, *judged.decision.interval(found.effect), found.n)
    within = setting.margin if judged.p_within <= setting.alpha else None
    kind, said, bound = verdict(found, judged.decision, logs, "minimize", within)
    needed = math.nan
    if within is not None:
        times = f"{math.exp(within):.3g} times"
        said = (
            f"{kind}, by less than {times}"
            if judged.decision.rejected
            else (f"equivalent within {times}")
        )
    elif kind == "undecided":
        needed = seeds_that_tell(found, setting)
        margin = None if setting.margin is None else math.exp(setting.margin)
        said += (
            f" (up to {round_up(_ratio(bound))} times could have been missed; "
            f"{seeds_words(needed, margin)} times)"
        )
    return _comparison(
        label, row, judged, found, setting, kind, said, logs[:3], _ratio(bound), needed
    )


def _ratio(log: float) -> float:
    return math.inf if log > _LARGEST else math.exp(log)


def _censored(
    label: str,
    row: Mapping[int, Run],
    judged: Judged[Found],
    found: Ranks,
    setting: Setting,
    *,
    learned: bool,
) -> Comparison:
    low, high = found.interval(setting.alpha / setting.n_rows)
    kind: Kind = "censored" if learned else "not_learned"
    crossed = False
    if judged.decision.rejected:
        crossed = disagree(found.effect, low, high)
        if not crossed:
            kind = "better" if found.effect > 0 else "worse"
            low, high = (low, min(high, 0.0)) if kind == "better" else (max(low, 0.0), high)
    estimate = math.nan if found.row_censored and found.base_censored else found.estimate
    said = f"{kind}: the curves cross" if crossed else _words(kind, low, high)
    return _comparison(
        label, row, judged, found, setting, kind, said, (estimate, low, high), math.nan, math.nan
    )


def disagree(effect: float, low: float, high: float) -> bool:
    """Whether the log-rank test and the bound on the log ratio point to different sides.

    A row whose runs mostly solve sooner, and one never, is neither sooner nor later.
    """
    return low > 0 if effect > 0 else high < 0


def _words(kind: Kind, low: float, high: float) -> str:
    if kind == "not_learned":
        return "not learned by either"
    if low > 0:
        return f"{kind}: at least {rounded_down(_ratio(low))} times later"
    if high < 0:
        return f"{kind}: at least {rounded_down(_ratio(-high))} times sooner"
    return kind


def rounded_down(value: float) -> str:
    """A lower bound in two decimals, so that what is printed is a bound, too."""
    return f"{math.floor(value * 100) / 100:.2f}" if math.isfinite(value) else f"{value}"


def _comparison(
    label: str,
    row: Mapping[int, Run],
    judged: Judged[Found],
    found: Found,
    setting: Setting,
    kind: Kind,
    said: str,
    logs: tuple[float, float, float],
    bound: float,
    needed: float,
) -> Comparison:
    effect, low, high = map(_ratio, logs)
    done = [math.log(run.time) for run in row.values() if run.solved]
    mean = math.exp(math.fsum(done) / len(done)) if done else math.nan
    return Comparison(
        label, found.n, mean, math.nan, math.nan, effect, low, high, found.p,
        judged.decision.p_holm, judged.p_within, kind, said, bound, needed,
        setting.size(judged.look) - found.n, judged.look, judged.decided,
    )  # fmt: skip
