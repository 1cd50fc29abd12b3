"""Two groups of which some run did not solve: the log-rank test, and a bound on the ratio."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from hymba_lab.stats.evidence import Evidence
from hymba_lab.stats.moderated import Spread, spread_of, typical
from hymba_lab.stats.power import LEAST_SEEDS
from hymba_lab.stats.survival import Run, log_rank

LEAST_FOR_RANKS = 6  # of 5 against 5 the smallest exact p is 0.008: too large for a table's Holm


class Ranks(NamedTuple):
    """Evidence of two groups of which some run did not solve; `effect` > 0: the row is sooner.

    `p` is NaN where there is no test. The interval of the log ratio is open on the side of the
    group that was stopped; `estimate`, `error`, `freedom` are those of its other end.
    """

    n: int
    effect: float
    p: float
    estimate: float
    error: float
    freedom: float
    row_censored: bool
    base_censored: bool
    share: float = 1.0

    @property
    def p_spent(self) -> float:
        """The p-value as if all of alpha were spent on it."""
        return self.p / self.share

    def p_within(self, margin: float) -> float:
        """No test: what was not lived to see cannot be shown to be alike."""
        return math.nan

    def half_width(self, alpha: float) -> float:
        """0 where the log-rank test decides at alpha, else infinite."""
        return 0.0 if self.p_spent <= alpha else math.inf

    def interval(self, alpha: float) -> tuple[float, float]:
        """The interval of the log ratio at 1 - alpha, of which `share` is spent here."""
        half = -float(stdtrit(self.freedom, alpha * self.share / 2)) * self.error
        low = self.estimate - half if not self.base_censored else -math.inf
        high = self.estimate + half if not self.row_censored else math.inf
        return low, high


def ranks(
    row: Mapping[int, Run], base: Mapping[int, Run], spreads: Sequence[Spread], share: float
) -> Evidence | Ranks:
    """Return the evidence of a row against a baseline where some run of either did not solve.

    `spreads` are variances of log T of solved rows: a row that was cut has none of its own. A run
    that was stopped counts in the bound as if it had solved at once, which can only flatter it.
    """
    mine, theirs = list(row.values()), list(base.values())
    fewest = min(len(mine), len(theirs))
    if fewest < LEAST_SEEDS:
        nan = math.nan
        return Evidence(len(mine), nan, nan, nan, nan, "too few", share)
    p, effect = math.nan, math.nan
    if fewest >= LEAST_FOR_RANKS:
        p, effect, _ = log_rank(mine, theirs)
    estimate = _mean_log(mine) - _mean_log(theirs)
    usual = typical(spreads)
    error = math.sqrt(sum(_variance(side, usual) / len(side) for side in (mine, theirs)))
    if not usual.variance:  # no noise was seen, which is no sign that there is none
        error = math.inf
    freedom = usual.freedom or 1.0
    cut, base_cut = (not all(run.solved for run in side) for side in (mine, theirs))
    return Ranks(len(mine), effect, p, estimate, error, freedom, cut, base_cut, share)


def _variance(side: Sequence[Run], usual: Spread) -> float:
    """That of solved rows; of a side that solved and is noisier, half-way to its own."""
    if not all(run.solved for run in side):
        return usual.variance
    own = spread_of([math.log(run.time) for run in side])
    return max(usual.variance, (usual.variance + own.variance) / 2)


def _mean_log(runs: Sequence[Run]) -> float:
    return math.fsum(math.log(run.time) for run in runs) / len(runs)
