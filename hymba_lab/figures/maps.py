"""Where attention and SSM maps put their weight: figures 5, 7 and 15."""

from typing import Literal

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hymba_lab.figures.style import (
    BRANCH_NAMES,
    INK,
    PALE,
    PALETTE,
    WIDE,
    chosen,
    legend,
    letters,
    marks,
    needed,
    panels,
    plain,
    rows_of,
    styled,
    title,
)

CATEGORIES = {"Meta": "#E69F00", "BOS": "#56B4E9", "Self": "#009E73", "Cross": "#c8c8c8"}


@styled
def mass(mass: pd.DataFrame, *, data: str | None = None, width: float = WIDE) -> Figure:
    """Share of the maps on Meta, BOS, Self and Cross: a bar per row and branch.

    `mass`: row, seed, data, layer, branch, head, category, value [fraction]. Means over heads and
    layers, then seeds, of one kind of data (None: of all kinds).
    """
    columns = ["row", "seed", "data", "layer", "branch", "category", "value"]
    drawn = needed(mass, columns, "mass")
    drawn = drawn if data is None else chosen(drawn, "data", data, "mass")
    shares = drawn.groupby(["row", "branch", "category"], sort=False)["value"].mean()
    rows = rows_of(drawn)
    bars = [(row, b) for row in rows for b in BRANCH_NAMES if (row, b) in shares.index.droplevel(2)]
    figure = Figure(
        figsize=(width, 0.2 * len(bars) + 0.08 * len(rows) + 0.85), layout="constrained"
    )
    ax = figure.subplots()
    plain(ax)
    ax.grid(visible=False)
    places: list[float] = []
    for number, (row, _) in enumerate(bars):
        gap = 0.35 if number and bars[number - 1][0] != row else 0.0
        places.append(places[-1] + 1 + gap if places else 0.0)
    for place, (row, branch) in zip(places, bars, strict=True):
        left = 0.0
        for category, color in CATEGORIES.items():
            share = float(shares.get((row, branch, category), 0.0))
            ax.barh(place, share, left=left, height=0.85, color=color)
            if share > 0.3 / width:
                ax.text(left + share / 2, place, f"{share:.2f}", ha="center", va="center", size=6.5)
            left += share
    ax.set_yticks(places, [_bar_name(row, branch, width) for row, branch in bars])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set(xlim=(0, 1), ylim=(places[-1] + 0.6, -0.6), xlabel="share of the map [fraction]")
    legend(figure, [Patch(color=color) for color in CATEGORIES.values()], list(CATEGORIES))
    return figure


def _bar_name(row: str, branch: str, width: float) -> str:
    room = letters(width * 0.4) - 12
    short = row if len(row) <= room else row[: room - 1] + "…"
    return f"{short}, {BRANCH_NAMES[branch]}"


@styled
def meta_attention(meta_attention: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Attention on each meta token by kind of data; a panel per row that has meta tokens.

    `meta_attention`: row, seed, data, layer, token, value [share of a query's attention]. Means
    over layers; line: mean of the seeds, band: lowest to highest seed.
    """
    columns = ["row", "seed", "data", "layer", "token", "value"]
    drawn = needed(meta_attention, columns, "meta_attention")
    rows, kinds = rows_of(drawn), list(dict.fromkeys(drawn["data"]))
    figure, axes = panels(len(rows), width, 1.5, least=2.1)
    by_seed = drawn.groupby(["row", "data", "token", "seed"], sort=False)["value"].mean()
    spread = by_seed.groupby(level=["row", "data", "token"]).agg(["mean", "min", "max"])
    each = width / max(1, int(width / 2.1)) - 0.2
    for ax, row in zip(axes, rows, strict=True):
        for kind, color in zip(kinds, PALETTE, strict=False):
            if (row, kind) not in spread.index.droplevel(2):
                continue
            band = spread.loc[(row, kind)].sort_index()
            ax.plot(band.index, band["mean"], color=color, marker=".", markersize=3)
            ax.fill_between(band.index, band["min"], band["max"], color=color, alpha=0.18, lw=0)
        title(ax, row, each)
        ax.set_ylim(bottom=0)
    legend(figure, axes[0].lines, kinds)
    figure.supxlabel("meta token", fontsize="medium")
    figure.supylabel("attention [fraction]", fontsize="medium")
    return figure


@styled
def entropy(
    entropy: pd.DataFrame,
    *,
    branch: Literal["attention", "ssm"] = "attention",
    data: str | None = None,
    width: float = WIDE,
) -> Figure:
    """Entropy of the maps per layer, a line per row; beside it its share of a uniform map's.

    `entropy`: row, seed, data, layer, branch, head, value, uniform [nats]. Means over heads and
    data, then seeds; bars reach from the lowest to the highest seed. A uniform map over more
    visible tokens has more entropy, so rows with other windows or more meta tokens are compared
    on the right.
    """
    columns = ["row", "seed", "data", "layer", "branch", "value", "uniform"]
    drawn = chosen(needed(entropy, columns, "entropy"), "branch", branch, "entropy")
    drawn = drawn if data is None else chosen(drawn, "data", data, "entropy")
    seeds = drawn.groupby(["row", "layer", "seed"], sort=False)[["value", "uniform"]].mean()
    seeds["share"] = seeds["value"] / seeds["uniform"]
    rows = rows_of(drawn)
    styles = marks(rows)
    figure = Figure(figsize=(width, 2.3 if width > 5 else 4.2), layout="constrained")
    axes = figure.subplots(*((1, 2) if width > 5 else (2, 1))).flatten()
    sides = {"value": "entropy [nats]", "share": "share of a uniform map's [fraction]"}
    layers = sorted(drawn["layer"].unique())
    for ax, (column, label) in zip(axes, sides.items(), strict=True):
        plain(ax)
        for place, row in enumerate(rows):
            spread = seeds.loc[row].groupby("layer")[column].agg(["mean", "min", "max"])
            away = [spread["mean"] - spread["min"], spread["max"] - spread["mean"]]
            shift = (place - (len(rows) - 1) / 2) * 0.3 / max(len(rows), 4)
            ax.errorbar(
                spread.index + shift, spread["mean"], yerr=away, markersize=4, elinewidth=0.8,
                **styles[row],
            )  # fmt: skip
        ax.set(xlabel="layer", ylabel=label, xticks=layers)
        ax.set_ylim(bottom=0)
    axes[1].axhline(1, color=PALE, linewidth=0.8, zorder=0)
    legend(figure, axes[0].lines[: len(rows)], rows)
    return figure
