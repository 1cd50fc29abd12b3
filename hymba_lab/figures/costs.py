"""Quality and reach against cost: figures 9 and 11."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hymba_lab.figures.aside import beside, leader, leader_entry, widen
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
_HOLLOW: Any = {"markerfacecolor": "none", "linestyle": "none", "markersize": 6}
_UNNAMED: Mark = {"color": INK, "marker": "D"}  # a row of the paper that the legend does not have


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
    column `cost` (cache_bytes, params or flops_per_token). Marks of nearly one cost stand side by
    side, each with a line to a ring at its own, which the front passes. A row without a mean has no
    point, and the legend says why (`absent`). `paper`: row, cost, value (of `paper_metric`, higher
    is better), drawn as the row's mark, hollow: other models, data and scale.
    """
    columns = ["row", "mean", "mean_low", "mean_high", "metric", cost]
    drawn = needed(table, columns, "trade_off")
    side, n = width > 5, 1 if paper is None else 2
    figure = Figure(figsize=(width, 2.5 if side else 2.2 * n), layout="constrained")
    axes = figure.subplots(*((1, n) if side else (n, 1)), squeeze=False).flatten()
    styles = _own(drawn, rows)
    heading = metric_heading(str(drawn["metric"].iloc[0]), goal)
    aside = _scatter(axes[0], drawn.astype({cost: float}), cost, goal, styles)
    _frame(axes[0], cost, drawn[cost], heading)
    missing = drawn["mean"].isna() | drawn[cost].isna()
    handles = [Line2D([], [], markersize=5, **_dot(style)) for style in styles.values()]
    pairs = zip(drawn["row"], missing, strict=True)
    labels = [f"{row} ({absent})" if gone else str(row) for row, gone in pairs]
    if paper is not None:
        needed(paper, ["row", "cost", "value"], "trade_off")
        aside |= _paper_panel(axes[1], paper, cost, styles)
        _frame(axes[1], cost, paper["cost"], f"paper: {paper_metric}")
        handles.append(Line2D([], [], color=INK, marker="o", **_HOLLOW))
        labels.append("hollow: the paper's, of other models, data and scale")
    front = Line2D([], [], color=QUIET, linestyle="--", linewidth=1), "Pareto front"
    for handle, label in (*leader_entry(aside), front):
        handles.append(handle)
        labels.append(label)
    legend(figure, handles, labels)
    return figure


def _own(drawn: pd.DataFrame, rows: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of the rows that are drawn, by their places among all of the report."""
    styles = marks([*rows, *rows_of(drawn)])
    return {row: styles[row] for row in rows_of(drawn)}


def _scatter(ax: Axes, drawn: pd.DataFrame, cost: str, goal: Goal, styles: dict[str, Mark]) -> bool:
    """Draw means, intervals and the front; return whether a mark stands aside."""
    scale, _ = _unit(drawn[cost], cost)
    known = drawn.dropna(subset=["mean", cost])
    costs, means = (known[cost] / scale).to_list(), known["mean"].to_list()
    widen(ax, costs)
    places = beside(ax, costs)
    ends = zip(costs, means, known["mean_low"], known["mean_high"], strict=True)
    for row, place, (true, mean, low, high) in zip(known["row"], places, ends, strict=True):
        away = None if math.isnan(low + high) else [[mean - low], [high - mean]]
        ax.errorbar(place, mean, yerr=away, markersize=5, elinewidth=0.8, **_dot(styles[row]))
        leader(ax, true, place, mean, styles[row]["color"])
    _front(ax, costs, means, goal)
    return places != costs


def _paper_panel(ax: Axes, paper: pd.DataFrame, cost: str, styles: dict[str, Mark]) -> bool:
    """Draw the paper's points and their front; return whether a mark stands aside."""
    scale, _ = _unit(paper["cost"], cost)
    costs, values = (paper["cost"] / scale).to_list(), paper["value"].to_list()
    widen(ax, costs)
    places = beside(ax, costs)
    points = zip(paper["row"].astype(str), costs, places, values, strict=True)
    for row, true, place, value in points:
        style = styles.get(row, _UNNAMED)
        ax.plot(place, value, **style | _HOLLOW)
        leader(ax, true, place, value, style["color"])
    _front(ax, costs, values, "maximize")
    return places != costs


def _dot(style: Mark) -> Mark:
    return {**style, "linestyle": "none"}


def _front(ax: Axes, costs: Sequence[float], values: Sequence[float], goal: Goal) -> None:
    """Draw the staircase through the points that no other beats in both, at their costs."""
    points = list(zip(costs, values, strict=True))
    on = pareto_front(points, ["minimize", goal])
    kept = sorted(point for point, best in zip(points, on, strict=True) if best)
    if kept:
        kept.append((ax.get_xlim()[1], kept[-1][1]))  # more cost buys nothing more
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
    widen(ax, costs)
    places = beside(ax, costs)
    for true, place, (row, style) in zip(costs, places, styles.items(), strict=True):
        values = seeds.loc[seeds["row"] == row, "value"]
        ax.plot([place] * len(values), values, ".", color=style["color"], markersize=4, alpha=0.6)
        ax.plot(place, values.mean(), markersize=6, **_dot(style))
        leader(ax, true, place, values.mean(), style["color"])
    _frame(ax, "cache_bytes", drawn["cache_bytes"], "effective receptive field\n[tokens]")
    ax.set_ylim(bottom=0)
    entries = [(Line2D([], [], markersize=6, **_dot(style)), row) for row, style in styles.items()]
    entries += leader_entry(places != costs)
    legend(figure, *zip(*entries, strict=True))
    return figure
