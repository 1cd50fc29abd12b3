"""From metric values per seed to verdicts that can be trusted; knows no files, frames or models.

The primary test is the paired t-test: seeds share data order and initialization draws, so their
differences carry less noise than the rows do, and it is the only common test that can decide
anything with three seeds (a sign-flip test needs six before its p-value can pass 0.05).
Its price is the assumption that differences are roughly bell-shaped. Small recall tasks break it:
a run has solved the task or sits at chance. See `two_levels` and `all_alike_by_luck`.
"""

from hymba_lab.stats.factorial import Interaction, interactions
from hymba_lab.stats.holm import holm_p
from hymba_lab.stats.jumps import all_alike_by_luck, two_levels
from hymba_lab.stats.looks import Looks, plan_looks
from hymba_lab.stats.paired import Interval, mean_interval
from hymba_lab.stats.pareto import pareto_front
from hymba_lab.stats.power import (
    detectable_effect,
    detectable_in_sd,
    paired_sd,
    showable_margin,
)
from hymba_lab.stats.region import Placed, Region, place
from hymba_lab.stats.rounding import round_up
from hymba_lab.stats.slope import Slope, slopes
from hymba_lab.stats.verdicts import Comparison, Goal, compare

__all__ = [
    "Comparison",
    "Goal",
    "Interaction",
    "Interval",
    "Looks",
    "Placed",
    "Region",
    "Slope",
    "all_alike_by_luck",
    "compare",
    "detectable_effect",
    "detectable_in_sd",
    "holm_p",
    "interactions",
    "mean_interval",
    "paired_sd",
    "pareto_front",
    "place",
    "plan_looks",
    "round_up",
    "showable_margin",
    "slopes",
    "two_levels",
]
