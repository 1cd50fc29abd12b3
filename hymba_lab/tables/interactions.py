"""The second table of a factorial sweep: how the effect of one axis depends on another."""

from collections.abc import Mapping, Sequence

import pandas as pd

from hymba_lab.stats import Goal, Interaction, interactions
from hymba_lab.tables.display import Column, Second
from hymba_lab.tables.numbers import estimate

_PLAIN = ("axis", "reference", "level", "other", "other_reference", "other_level")
_NUMBERS = ("n", "effect", "low", "high", "p", "p_holm", "verdict")


def interaction_table(
    runs: pd.DataFrame,
    values: Mapping[str, Mapping[int, float]],
    axes: Sequence[str],
    baseline: str,
    *,
    goal: Goal,
    alpha: float,
    of: str = "",
) -> Second:
    """The interactions of every two of the `axes`, against the baseline's levels; `of` what.

    The frame's columns are those of `stats.Interaction`; `there` and `here` with their ends.
    """
    cells = runs.drop_duplicates("row")
    choices = zip(*(cells[axis].astype(str) for axis in axes), strict=True)
    labels = dict(zip(cells["row"].astype(str), choices, strict=True))
    found = interactions(
        {labels[row]: seeds for row, seeds in values.items()},
        dict(zip(axes, labels[baseline], strict=True)),
        goal=goal,
        alpha=alpha,
    )
    frame = pd.DataFrame([_line(one) for one in found])
    title = (
        f"Interactions{of}: how much more a step does at another level of a second axis "
        f"(difference of effects by seed, one-sample t-tests at alpha = {alpha:g}, Holm over this "
        f"table; the effects themselves each at {100 * (1 - alpha):g} %)"
    )
    return Second("interactions", title, frame, _columns(found))


def _line(one: Interaction) -> dict[str, object]:
    effects = {
        f"{name}{end}": getattr(getattr(one, name), end.removeprefix("_") or "mean")
        for name in ("there", "here")
        for end in ("", "_low", "_high")
    }
    return {
        **{name: getattr(one, name) for name in _PLAIN},
        **effects,
        **{name: getattr(one, name) for name in _NUMBERS},
    }


def _columns(found: Sequence[Interaction]) -> list[Column]:
    steps = [f"{one.axis}: {one.reference} → {one.level}" for one in found]
    wheres = [f"{one.other}: {one.other_reference} → {one.other_level}" for one in found]
    there = [estimate(*one.there[:3], signed=True) for one in found]
    here = [estimate(*one.here[:3], signed=True) for one in found]
    differences = [estimate(one.effect, one.low, one.high, signed=True) for one in found]
    return [
        Column("step", steps, False, "label"),
        Column("as the second axis goes", wheres, False, "label"),
        Column("effect before", there, True),
        Column("effect after", here, True),
        Column("difference", differences, True),
        Column("verdict", [one.verdict for one in found], False),
    ]
