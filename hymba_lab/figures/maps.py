"""Where attention and SSM maps put their weight: figures 5, 7 and 15."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hymba_lab.figures.style import (
    BRANCH_NAMES,
    INK,
    PALE,
    PALETTE,
    QUIET,
    TOGETHER,
    WIDE,
    Mark,
    across,
    layer_ticks,
    legend,
    marks,
    needed,
    only,
    panels,
    plain,
    rows_of,
    side_label,
    spread,
    styled,
)

CATEGORIES = {
    "Meta": "#E69F00",
    "BOS": "#56B4E9",
    "Self": "#009E73",
    "Cross": "#d9d9d9",
    "Sink": "#CC79A7",
}


@styled
def mass(mass: pd.DataFrame, *, data: str | None = None, width: float = WIDE) -> Figure:
    """Share of the maps on Meta, BOS, Self, Cross and a sink: a bar per row and branch.

    `mass`: row, seed, data, layer, branch, head, category, value [fraction]. Means over heads and
    layers, then seeds, of one kind of data (None: of all kinds).
    """
    columns = ["row", "seed", "data", "layer", "branch", "category", "value"]
    drawn = only(needed(mass, columns, "mass"), "data", data, "mass")
    shares = spread(drawn, ["row", "branch", "category"])
    known = set(zip(shares["row"], shares["branch"], strict=True))
    present = set(shares["category"])
    n_rows = len(rows_of(drawn))
    figure = Figure(figsize=(width, 0.2 * (len(known) + n_rows) + 0.4), layout="constrained")
    ax = figure.subplots()
    plain(ax)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ticks: dict[float, str] = {}
    place = 0.0
    for row in rows_of(drawn):
        across(ax, row, place, "data")
        for branch in (branch for branch in BRANCH_NAMES if (row, branch) in known):
            place += 1.0
            ticks[place] = BRANCH_NAMES[branch]
            of_bar = shares[(shares["row"] == row) & (shares["branch"] == branch)]
            _bar(figure, place, dict(zip(of_bar["category"], of_bar["mean"], strict=True)))
        place += 1.15
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set(xlim=(0, 1), ylim=(place - 0.5, -0.6), xlabel="share of the map [fraction]")
    shown = {name: Patch(color=color) for name, color in CATEGORIES.items() if name in present}
    legend(figure, list(shown.values()), list(shown))
    return figure


def _bar(figure: Figure, place: float, shares: dict[str, float]) -> None:
    """Stack the categories; a share is written where it is wide enough for its digits."""
    (ax,) = figure.axes
    left = 0.0
    for category, color in CATEGORIES.items():
        share = shares.get(category, 0.0)
        ax.barh(place, share, left=left, height=0.86, color=color)
        if share * (figure.get_figwidth() - 0.8) > 0.25:
            ax.text(left + share / 2, place, f"{share:.2f}", ha="center", va="center", size=6.5)
        left += share


@styled
def meta_attention(meta_attention: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Attention on each meta token by kind of data; a panel per row that has meta tokens.

    `meta_attention`: row, seed, data, layer, token, value [share of a query's attention]. Means
    over layers; line: mean of the seeds, band: lowest to highest seed.
    """
    columns = ["row", "seed", "data", "layer", "token", "value"]
    drawn = needed(meta_attention, columns, "meta_attention")
    rows, kinds = rows_of(drawn), list(dict.fromkeys(drawn["data"]))
    bands = spread(drawn, ["row", "data", "token"]).sort_values("token")
    figure, axes = panels(rows, width, 1.2)
    for ax, row in zip(axes, rows, strict=True):
        for kind, color in zip(kinds, PALETTE, strict=False):
            band = bands[(bands["row"] == row) & (bands["data"] == kind)]
            ax.plot(band["token"], band["mean"], color=color, marker=".", markersize=3, lw=1)
            ax.fill_between(band["token"], band["low"], band["high"], color=color, alpha=0.16, lw=0)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0].set_ylim(bottom=0)  # of all panels: rows are compared
    legend(figure, axes[0].lines, kinds)
    figure.supxlabel("meta token")
    side_label(figure, "attention [fraction]")
    return figure


@styled
def entropy(
    entropy: pd.DataFrame,
    *,
    branch: Literal["attention", "ssm"] | None = None,
    data: str | None = None,
    rows: Sequence[str] = (),
    width: float = WIDE,
) -> Figure:
    """Entropy of the maps per layer, a line per row; beside it its share of a uniform map's.

    `entropy`: row, seed, data, layer, branch, head, value, uniform [nats]. Means over heads and
    data, then seeds; bars reach from the lowest to the highest seed. A uniform map over more
    visible tokens has more entropy, so rows with other windows or more meta tokens are compared
    by the share. More than six rows get a panel each, with the uniform map's entropy dotted.
    `branch` None is attention, or the SSM's implicit maps where no row attends.
    """
    columns = ["row", "seed", "data", "layer", "branch", "value", "uniform"]
    known = needed(entropy, columns, "entropy")
    branch = branch or ("attention" if known["branch"].eq("attention").any() else "ssm")
    drawn = only(known, "branch", branch, "entropy")
    drawn = only(drawn, "data", data, "entropy")
    drawn = drawn.assign(share=drawn["value"] / drawn["uniform"])
    styles, layers = marks([*rows, *rows_of(drawn)]), sorted(drawn["layer"].unique())
    rows = rows_of(drawn)
    if len(rows) > TOGETHER:
        return _entropy_panels(drawn, {row: styles[row] for row in rows}, layers, width)
    n_columns = 2 if width > 5 else 1
    figure = Figure(figsize=(width, 4.2 / n_columns), layout="constrained")
    axes = figure.subplots(2 // n_columns, n_columns).flatten()
    sides = {"value": "entropy [nats]", "share": "share of a uniform\nmap's [fraction]"}
    for ax, (column, label) in zip(axes, sides.items(), strict=True):
        plain(ax)
        points = spread(drawn, ["row", "layer"], column).sort_values("layer")
        for place, row in enumerate(rows):
            shift = (place - (len(rows) - 1) / 2) * 0.3 / max(len(rows), 4)
            _course(ax, points[points["row"] == row], styles[row], shift)
        ax.set_ylabel(label)
        layer_ticks(ax, layers, width / n_columns - 0.8)
        ax.set_ylim(bottom=0)
    axes[1].axhline(1, color=PALE, linewidth=0.8, zorder=0)
    figure.supxlabel("layer")
    legend(figure, axes[0].containers, rows)
    return figure


def _entropy_panels(
    drawn: pd.DataFrame, styles: dict[str, Mark], layers: list[int], width: float
) -> Figure:
    figure, axes = panels(list(styles), width, 1.05)
    points = spread(drawn, ["row", "layer"]).sort_values("layer")
    uniform = drawn.groupby(["row", "layer"], as_index=False)["uniform"].mean()
    for ax, (row, style) in zip(axes, styles.items(), strict=True):
        for _, other in points.groupby("row", sort=False):
            ax.plot(other["layer"], other["mean"], color=PALE, linewidth=0.6)
        own = uniform[uniform["row"] == row]
        ax.plot(own["layer"], own["uniform"], color=QUIET, linestyle=":", linewidth=1)
        _course(ax, points[points["row"] == row], style)
        layer_ticks(ax, layers, width / max(1, int(width / 1.55)) - 0.4)
    axes[0].set_ylim(bottom=0)  # of all panels
    plain_mark = {"color": QUIET, "marker": "o"}
    handles = [Line2D([], [], **mark) for mark in (plain_mark, {"color": QUIET, "linestyle": ":"})]  # type: ignore[arg-type]
    legend(figure, handles, ["the row's maps", "a uniform map"])
    figure.supxlabel("layer")
    side_label(figure, "entropy [nats]")
    return figure


def _course(ax: Axes, points: pd.DataFrame, style: Mark, shift: float = 0.0) -> None:
    """Draw means over the layers, with bars from the lowest to the highest seed."""
    away = [points["mean"] - points["low"], points["high"] - points["mean"]]
    at = points["layer"] + shift
    ax.errorbar(at, points["mean"], yerr=away, markersize=4, elinewidth=0.8, **style)
