"""What steps aside where it would cover something: marks of nearly one cost, labels of lines."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from hymba_lab.figures.style import INK

_MARK = 0.1  # width of a mark with some air [inch]
_NEAR = 0.2  # of that width: a mark that would step aside by less keeps to its cost
_DECADES = 20  # highest through lowest cost from which the axis is logarithmic
_RING: Any = {"marker": "o", "markersize": 2.5, "markerfacecolor": "white", "markeredgewidth": 0.7}
_LEADER: Any = {"linestyle": "-", "linewidth": 0.7, **_RING}


def widen(ax: Axes, costs: Sequence[float]) -> None:
    """Set the x axis; costs that differ by less than a tenth stay close together.

    Costs of several orders of magnitude get a logarithmic one.
    """
    low, high = min(costs, default=0.0), max(costs, default=1.0)
    if low > 0 and high / low >= _DECADES:
        margin = (high / low) ** 0.08
        ax.set(xscale="log", xlim=(low / margin, high * margin))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    span = max(high - low, 0.2 * high) or 1.0
    middle = (low + high) / 2
    ax.set_xlim(middle - 0.58 * span, middle + 0.58 * span)


def beside(ax: Axes, costs: Sequence[float]) -> list[float]:
    """Return x of every mark: its cost, or a place aside where it would cover another.

    The axis is made wider where a place would be cut by its end. `leader` joins place and cost.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    there, back = (math.log10, _power) if ax.get_xscale() == "log" else (float, float)
    at = [there(cost) for cost in costs]
    left, right = map(there, ax.get_xlim())
    step = _MARK * (right - left) / (figure.get_figwidth() * ax.get_position().width)
    order = sorted(range(len(at)), key=lambda i: (-at[i], -i))
    placed = dict(zip(order, apart([at[i] for i in order], [step] * len(at)), strict=True))
    left = min([left, *(place - step for place in placed.values())])
    right = max([right, *(place + step for place in placed.values())])
    ax.set_xlim(back(left), back(right))
    stays = [abs(placed[i] - at[i]) < _NEAR * step for i in range(len(at))]
    return [cost if stays[i] else back(placed[i]) for i, cost in enumerate(costs)]


def _power(x: float) -> float:
    return float(10**x)


def leader(ax: Axes, cost: float, place: float, value: float, color: str) -> None:
    """Draw a thin line from a small ring at the cost to the mark that stands aside, if it does."""
    if place != cost:
        ax.plot([cost, place], [value, value], color=color, markevery=[0], zorder=3, **_LEADER)


def leader_entry(aside: bool) -> list[tuple[Line2D, str]]:
    """Return the legend's handle and label of the leaders, where any mark stands aside."""
    label = "small ring: exact cost of the mark at its line's end"
    return [(Line2D([], [], color=INK, **_LEADER), label)] if aside else []


def apart(centers: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Return centers, given from high to low, moved as little as keeps boxes from overlapping.

    Boxes that touch form a block around the mean of what its members want.
    """
    blocks: list[tuple[list[float], float]] = []  # wanted tops of its members, and its height
    for center, height in zip(centers, heights, strict=True):
        tops, total = [center + height / 2], height
        while blocks and _top(blocks[-1]) - blocks[-1][1] < sum(tops) / len(tops):
            upper, above = blocks.pop()
            tops, total = [*upper, *(top + above for top in tops)], above + total
        blocks.append((tops, total))
    placed: list[float] = []
    sizes = iter(heights)
    for block in blocks:
        top = _top(block)
        for _ in block[0]:
            height = next(sizes)
            placed.append(top - height / 2)
            top -= height
    return placed


def _top(block: tuple[list[float], float]) -> float:
    return sum(block[0]) / len(block[0])
