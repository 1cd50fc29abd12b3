"""Quality and reach against cost: figures 9 and 11."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from hymba_lab.figures.style import (
    INK,
    QUIET,
    WIDE,
    Mark,
    legend,
    marks,
    needed,
    only,
    plain,
    rows_of,
    styled,
)
from hymba_lab.stats import Goal, pareto_front
from hymba_lab.tables.display import metric_heading

COSTS = {
    "cache_bytes": ("cache after 8000 tokens", {1e9: "GB", 1e6: "MB", 1e3: "kB"}),
    "params": ("parameters", {1e9: "billions", 1e6: "millions", 1e3: "thousands"}),
    "flops_per_token": ("forward FLOPs per token", {1e9: "G", 1e6: "M", 1e3: "k"}),
}
_MARK, _APART = 0.1, 0.5  # width of a mark with some air, and of a group of them [inch]
_DECADES = 20  # highest through lowest cost from which the axis is logarithmic
_PAPER: Any = {"marker": "D", "markerfacecolor": "none", "linestyle": "none", "markersize": 6}


@styled
def trade_off(
    table: pd.DataFrame,
    *,
    goal: Goal,
    cost: str = "cache_bytes",
    paper: pd.DataFrame | None = None,
    paper_metric: str = "",
    rows: Sequence[str] = (),
    absent: str = "not measured",
    width: float = WIDE,
) -> Figure:
    """Quality against one cost, with the Pareto front; the paper's points have their own panel.

    `table` is the frame of `tables.result_table`: row, mean, mean_low, mean_high, metric, and the
    column `cost` (cache_bytes, params or flops_per_token). Points of nearly one cost stand side by
    side. A row without a mean has no point, and the legend says why (`absent`). `paper`: row, cost,
    value (of `paper_metric`, higher is better), drawn as open diamonds: other models, data, scale.
    """
    columns = ["row", "mean", "mean_low", "mean_high", "metric", cost]
    drawn = needed(table, columns, "trade_off")
    side, n = width > 5, 1 if paper is None else 2
    figure = Figure(figsize=(width, 2.5 if side else 2.2 * n), layout="constrained")
    axes = figure.subplots(*((1, n) if side else (n, 1)), squeeze=False).flatten()
    styles = _own(drawn, rows)
    heading = metric_heading(str(drawn["metric"].iloc[0]), goal)
    _scatter(axes[0], drawn.astype({cost: float}), cost, goal, styles)
    _frame(axes[0], cost, drawn[cost], heading)
    missing = drawn["mean"].isna() | drawn[cost].isna()
    handles = [Line2D([], [], markersize=5, **_dot(style)) for style in styles.values()]
    pairs = zip(drawn["row"], missing, strict=True)
    labels = [f"{row} ({absent})" if gone else str(row) for row, gone in pairs]
    if paper is not None:
        needed(paper, ["row", "cost", "value"], "trade_off")
        _paper_panel(axes[1], paper, cost, styles)
        _frame(axes[1], cost, paper["cost"], f"paper: {paper_metric}")
        handles.append(Line2D([], [], color=INK, **_PAPER))
        labels.append("the paper's: other models, data and scale")
    handles.append(Line2D([], [], color=QUIET, linestyle="--", linewidth=1))
    legend(figure, handles, [*labels, "Pareto front"])
    return figure


def _own(drawn: pd.DataFrame, rows: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of the rows that are drawn, by their places among all of the report."""
    styles = marks([*rows, *rows_of(drawn)])
    return {row: styles[row] for row in rows_of(drawn)}


def _scatter(ax: Axes, drawn: pd.DataFrame, cost: str, goal: Goal, styles: dict[str, Mark]) -> None:
    scale, _ = _unit(drawn[cost], cost)
    known = drawn.dropna(subset=["mean", cost])
    costs = (known[cost] / scale).to_list()
    _widen(ax, costs)
    places = _side_by_side(ax, costs)
    ends = zip(known["mean"], known["mean_low"], known["mean_high"], strict=True)
    for row, place, (mean, low, high) in zip(known["row"], places, ends, strict=True):
        away = None if math.isnan(low + high) else [[mean - low], [high - mean]]
        ax.errorbar(place, mean, yerr=away, markersize=5, elinewidth=0.8, **_dot(styles[row]))
    _front(ax, costs, known["mean"].to_list(), goal, places)


def _paper_panel(ax: Axes, paper: pd.DataFrame, cost: str, styles: dict[str, Mark]) -> None:
    scale, _ = _unit(paper["cost"], cost)
    costs, values = (paper["cost"] / scale).to_list(), paper["value"].to_list()
    _widen(ax, costs)
    for row, place, value in zip(paper["row"].astype(str), costs, values, strict=True):
        ax.plot(place, value, color=styles[row]["color"] if row in styles else INK, **_PAPER)
    _front(ax, costs, values, "maximize", costs)


def _dot(style: Mark) -> Mark:
    return {**style, "linestyle": "none"}


def _widen(ax: Axes, costs: Sequence[float]) -> None:
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


def _side_by_side(ax: Axes, costs: Sequence[float]) -> list[float]:
    """Return x of every point: those that would cover each other stand side by side."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    logarithmic = ax.get_xscale() == "log"
    at = [math.log10(cost) for cost in costs] if logarithmic else list(costs)
    left, right = (math.log10(x) if logarithmic else x for x in ax.get_xlim())
    inch = (right - left) / (figure.get_figwidth() * ax.get_position().width)
    groups: list[list[int]] = []
    for i in sorted(range(len(at)), key=lambda i: (at[i], i)):
        if groups and at[i] - at[groups[-1][0]] <= _MARK * inch:
            groups[-1].append(i)
        else:
            groups.append([i])
    places = list(at)
    for group in groups:
        middle = sum(at[i] for i in group) / len(group)
        step = min(_MARK, _APART / len(group)) * inch
        for number, i in enumerate(group):
            places[i] = middle + (number - (len(group) - 1) / 2) * step
    return [10**place for place in places] if logarithmic else places


def _front(
    ax: Axes,
    costs: Sequence[float],
    values: Sequence[float],
    goal: Goal,
    places: Sequence[float],
) -> None:
    """Draw the staircase through the points that no other beats in both, where they stand."""
    on = pareto_front(list(zip(costs, values, strict=True)), ["minimize", goal])
    kept = sorted(pair for *pair, best in zip(places, values, on, strict=True) if best)
    if kept:
        kept.append([ax.get_xlim()[1], kept[-1][1]])  # more cost buys nothing more
        ax.step(*zip(*kept, strict=True), where="post", color=QUIET, linestyle="--", lw=1, zorder=0)


def _unit(costs: "pd.Series[Any]", cost: str) -> tuple[float, str]:
    """Return what to divide by, and the axis label with its unit."""
    name, units = COSTS.get(cost, (cost, {}))
    largest = float(costs.max()) if len(costs) else 0.0
    scale = next((unit for unit in units if largest >= unit), 1.0)
    return scale, f"{name} [{units[scale]}]" if scale in units else name


def _frame(ax: Axes, cost: str, costs: "pd.Series[Any]", label: str) -> None:
    plain(ax)
    ax.set(xlabel=_unit(costs, cost)[1], ylabel=label)


@styled
def erf_against_cache(
    erf: pd.DataFrame, *, data: str | None = None, rows: Sequence[str] = (), width: float = WIDE
) -> Figure:
    """Effective receptive field [tokens] against the cache: a mark per row, a dot per seed.

    `erf`: row, seed, data, value [tokens], cache_bytes, tokens. Means over data (None: all kinds).
    """
    columns = ["row", "seed", "data", "value", "cache_bytes", "tokens"]
    drawn = only(needed(erf, columns, "erf_against_cache"), "data", data, "erf_against_cache")
    styles = _own(drawn, rows)
    scale, _ = _unit(drawn["cache_bytes"], "cache_bytes")
    by_seed = drawn.groupby(["row", "seed"], sort=False)[["value", "cache_bytes"]]
    seeds = by_seed.mean().reset_index()
    figure = Figure(figsize=(width, 2.5 if width > 5 else 2.2), layout="constrained")
    ax = figure.subplots()
    costs = (seeds.groupby("row", sort=False)["cache_bytes"].mean() / scale).to_list()
    _widen(ax, costs)
    places = _side_by_side(ax, costs)
    for place, (row, style) in zip(places, styles.items(), strict=True):
        values = seeds.loc[seeds["row"] == row, "value"]
        ax.plot([place] * len(values), values, ".", color=style["color"], markersize=4, alpha=0.6)
        ax.plot(place, values.mean(), markersize=6, **_dot(style))
    _frame(ax, "cache_bytes", drawn["cache_bytes"], "effective receptive field\n[tokens]")
    ax.set_ylim(bottom=0)
    handles = [Line2D([], [], markersize=6, **_dot(style)) for style in styles.values()]
    legend(figure, handles, list(styles))
    return figure
