"""Quality and reach against cost: figures 2, 9 and 11."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hymba_lab.figures.style import (
    INK,
    PALETTE,
    QUIET,
    WIDE,
    legend,
    marks,
    needed,
    plain,
    rows_of,
    styled,
)
from hymba_lab.render import metric_heading
from hymba_lab.stats import Goal, pareto_front

COSTS = {
    "cache_bytes": ("cache after 8000 tokens", {1e9: "GB", 1e6: "MB", 1e3: "kB", 1.0: "bytes"}),
    "params": ("parameters", {1e9: "billions", 1e6: "millions", 1e3: "thousands", 1.0: "count"}),
    "flops_per_token": ("forward FLOPs per token", {1e9: "G", 1e6: "M", 1e3: "k", 1.0: "FLOP"}),
}


@styled
def trade_off(
    table: pd.DataFrame,
    *,
    goal: Goal,
    cost: str = "cache_bytes",
    paper: pd.DataFrame | None = None,
    paper_metric: str = "",
    width: float = WIDE,
) -> Figure:
    """Quality against one cost, with the Pareto front; the paper's points have their own panel.

    `table` is the frame of `tables.result_table`: row, mean, mean_low, mean_high, metric, and the
    column `cost` (cache_bytes, params or flops_per_token). A row that was not measured is left out
    of the picture, and the legend says so. `paper`: row, cost, value (of `paper_metric`, higher is
    better), drawn as open diamonds: other models, data and scale.
    """
    columns = ["row", "mean", "mean_low", "mean_high", "metric", cost]
    drawn = needed(table, columns, "trade_off")
    n = 1 if paper is None else 2
    side = width > 5
    figure = Figure(figsize=(width, 2.9 if side else 2.5 * n + 0.3), layout="constrained")
    axes = figure.subplots(*((1, n) if side else (n, 1)), squeeze=False).flatten()
    styles, handles, labels = marks(rows_of(drawn)), [], []
    ours = drawn.dropna(subset=["mean", cost])
    scale, unit = _scaled(ours[cost], cost)
    for line in drawn.to_dict("records"):
        style = {**styles[str(line["row"])], "linestyle": "none"}
        handles.append(Line2D([], [], markersize=5, **style))
        missing = pd.isna(line["mean"]) or pd.isna(line[cost])
        labels.append(f"{line['row']} (not measured)" if missing else str(line["row"]))
        if not missing:
            away = _away(line)
            axes[0].errorbar(
                line[cost] / scale, line["mean"], yerr=away, markersize=5, elinewidth=0.8, **style
            )
    _front(axes[0], ours[cost] / scale, ours["mean"], goal)
    _frame(axes[0], unit, metric_heading(str(drawn["metric"].iloc[0]), goal))
    if paper is not None:
        needed(paper, ["row", "cost", "value"], "trade_off")
        _paper_panel(axes[1], paper, cost, paper_metric, styles)
        handles.append(Line2D([], [], **_OPEN, color=INK))
        labels.append("the paper's, other models and scale")
    handles.append(Line2D([], [], color=QUIET, linestyle="--", linewidth=1))
    legend(figure, handles, [*labels, "Pareto front"])
    return figure


_OPEN = {"marker": "D", "markerfacecolor": "none", "linestyle": "none", "markersize": 5}


def _paper_panel(
    ax: Axes, paper: pd.DataFrame, cost: str, metric: str, styles: dict[str, dict[str, str]]
) -> None:
    scale, unit = _scaled(paper["cost"], cost)
    for line in paper.to_dict("records"):
        color = styles.get(str(line["row"]), {}).get("color", INK)
        ax.plot(line["cost"] / scale, line["value"], color=color, **_OPEN)
    _front(ax, paper["cost"] / scale, paper["value"], "maximize")
    _frame(ax, unit, f"paper: {metric}")


def _away(line: dict[str, float]) -> list[list[float]] | None:
    if pd.isna(line["mean_low"]) or pd.isna(line["mean_high"]):
        return None
    return [[line["mean"] - line["mean_low"]], [line["mean_high"] - line["mean"]]]


def _front(ax: Axes, costs: "pd.Series[float]", values: "pd.Series[float]", goal: Goal) -> None:
    """Draw the staircase through the points that no other beats in both."""
    points = list(zip(costs.astype(float), values.astype(float), strict=True))
    kept = sorted(
        point
        for point, on in zip(points, pareto_front(points, ["minimize", goal]), strict=True)
        if on
    )
    ax.step(*zip(*kept, strict=True), where="post", color=QUIET, linestyle="--", lw=1, zorder=0)


def _scaled(costs: "pd.Series[float]", cost: str) -> tuple[float, str]:
    name, units = COSTS.get(cost, (cost, {1.0: ""}))
    largest = float(costs.max()) if len(costs) else 0.0
    scale = next((unit for unit in units if largest >= unit), min(units))
    return scale, f"{name} [{units[scale]}]" if units[scale] else name


def _frame(ax: Axes, x: str, y: str) -> None:
    plain(ax)
    ax.set(xlabel=x, ylabel=y)


@styled
def erf_against_cache(erf: pd.DataFrame, *, data: str | None = None, width: float = WIDE) -> Figure:
    """Effective receptive field [tokens] against the cache; a mark per row, a dot per seed.

    `erf`: row, seed, data, value [tokens], cache_bytes, tokens. Means over data (None: all kinds).
    """
    drawn = needed(
        erf, ["row", "seed", "data", "value", "cache_bytes", "tokens"], "erf_against_cache"
    )
    drawn = drawn if data is None else drawn[drawn["data"] == data]
    rows = rows_of(drawn)
    seeds = (
        drawn.groupby(["row", "seed"], sort=False)[["value", "cache_bytes"]].mean().reset_index()
    )
    scale, unit = _scaled(seeds["cache_bytes"], "cache_bytes")
    figure = Figure(figsize=(width, 2.9 if width > 5 else 2.5), layout="constrained")
    ax = figure.subplots()
    for row, style in marks(rows).items():
        own = seeds[seeds["row"].astype(str) == row]
        at = own["cache_bytes"] / scale
        ax.plot(at, own["value"], ".", color=style["color"], markersize=3.5)
        style = {**style, "linestyle": "none"}
        ax.plot(at.mean(), own["value"].mean(), markersize=6, label=row, **style)
    _frame(ax, unit, f"effective receptive field [tokens of {drawn['tokens'].iloc[0]:g}]")
    ax.set_ylim(bottom=0)
    legend(figure, *ax.get_legend_handles_labels())
    return figure


@styled
def cache_against_length(cache: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Cache against the length of the sequence, exact; models of equal cache share a line.

    `cache`: model, kind ("hybrid" or "transformer"), tokens, cache_bytes.
    """
    drawn = needed(cache, ["model", "kind", "tokens", "cache_bytes"], "cache_against_length")
    figure = Figure(figsize=(width, 3.4 if width > 5 else 3.8), layout="constrained")
    ax = figure.subplots()
    table = drawn.pivot_table(index="model", columns="tokens", values="cache_bytes", sort=False)
    kinds = drawn.drop_duplicates("model").set_index("model")["kind"]
    shared: dict[tuple[float, ...], list[str]] = {}
    for model, values in table.iterrows():
        shared.setdefault(tuple(values), []).append(str(model))
    handles, labels = [], []
    for place, (values, models) in enumerate(sorted(shared.items(), key=lambda item: -item[0][-1])):
        hybrid = any(kinds[model] == "hybrid" for model in models)
        color = PALETTE[place % len(PALETTE)]
        handles += ax.plot(
            [length / 1000 for length in table.columns], [value / 1e6 for value in values],
            color=color, linewidth=2.4 if hybrid else 1.2, linestyle="-" if hybrid else "--",
        )  # fmt: skip
        labels.append(", ".join(models))
    ax.set_yscale("log")
    _frame(ax, "sequence [thousands of tokens]", "cache [MB, FP16]")
    legend(figure, handles, labels)
    return figure
