"""From metric values per seed to verdicts that can be trusted; knows no files, frames or models.

Two kinds of questions. A metric that moves smoothly (loss, bits per byte) is compared by its level
at the end (`compare`). A task that is learned in a jump is compared by when it was solved
(`compare_times`): its level at the end says when the run was stopped. Both take the noise of a row
from all rows (`moderated`), pair by seed only where that pays (`pairing`), correct over the table
(`holm`), show equivalence where a margin is given, and may add seeds until decided (`looks`).
"""

from hymba_lab.stats.counterfactual import wrong_winner
from hymba_lab.stats.evidence import Evidence, Interval, against, mean_interval
from hymba_lab.stats.factorial import Interaction, interactions
from hymba_lab.stats.holm import holm_p
from hymba_lab.stats.looks import Looks, plan_looks
from hymba_lab.stats.moderated import Spread, spread_of
from hymba_lab.stats.pairing import Pairing
from hymba_lab.stats.pareto import pareto_front
from hymba_lab.stats.power import (
    LEAST_SEEDS,
    RESOLUTION,
    detectable_effect,
    measured,
    run_sd,
    seeds_needed,
    showable_margin,
)
from hymba_lab.stats.region import Placed, Region, place
from hymba_lab.stats.rounding import round_up
from hymba_lab.stats.slope import Slope, slopes
from hymba_lab.stats.survival import Run, Step, crossing, kaplan_meier, log_rank
from hymba_lab.stats.times import (
    MARGIN,
    Timed,
    compare_times,
    disagree,
    factor_of,
    log_spreads,
    log_times,
)
from hymba_lab.stats.verdicts import NOWHERE, Comparison, Goal, Kind, compare, pairing_of

__all__ = [
    "LEAST_SEEDS",
    "MARGIN",
    "NOWHERE",
    "RESOLUTION",
    "Comparison",
    "Evidence",
    "Goal",
    "Interaction",
    "Interval",
    "Kind",
    "Looks",
    "Pairing",
    "Placed",
    "Region",
    "Run",
    "Slope",
    "Spread",
    "Step",
    "Timed",
    "against",
    "compare",
    "compare_times",
    "crossing",
    "detectable_effect",
    "disagree",
    "factor_of",
    "holm_p",
    "interactions",
    "kaplan_meier",
    "log_rank",
    "log_spreads",
    "log_times",
    "mean_interval",
    "measured",
    "pairing_of",
    "pareto_front",
    "place",
    "plan_looks",
    "round_up",
    "run_sd",
    "seeds_needed",
    "showable_margin",
    "slopes",
    "spread_of",
    "wrong_winner",
]
