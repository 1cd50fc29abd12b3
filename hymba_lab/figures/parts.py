"""What each branch of each layer carries: removal (figures 3, 13) and magnitudes (figure 12)."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hymba_lab.figures.style import (
    BRANCH_NAMES,
    BRANCHES,
    QUIET,
    WIDE,
    chosen,
    legend,
    needed,
    panels,
    plain,
    rows_of,
    styled,
    title,
)
from hymba_lab.render import metric_heading

QUANTITIES = {
    "output": "branch output [RMS]",
    "contribution": "part of the sum [RMS]",
    "scale": "norm weight [mean |β|]",
}


@styled
def removal(removal: pd.DataFrame, *, metric: str, width: float = WIDE) -> Figure:
    """Change of a metric when one branch of one layer is silenced; a panel per row.

    `removal`: row, seed, layer, branch, metric, whole, value, change. Bars: mean over seeds, dots:
    every seed.
    """
    columns = ["row", "seed", "layer", "branch", "metric", "change"]
    drawn = chosen(needed(removal, columns, "removal"), "metric", metric, "removal")
    rows, layers = rows_of(drawn), sorted(drawn["layer"].unique())
    least = max(1.55, min(0.16 * len(layers), width))
    figure, axes = panels(len(rows), width, 1.45, least=least)
    each = width / max(1, int(width / least)) - 0.2
    for ax, row in zip(axes, rows, strict=True):
        own = drawn[drawn["row"].astype(str) == row]
        for side, (branch, color) in zip((-0.2, 0.2), BRANCHES.items(), strict=True):
            one = own[own["branch"] == branch]
            means = one.groupby("layer")["change"].mean()
            ax.bar(means.index + side, means, width=0.36, color=color, alpha=0.55)
            ax.plot(one["layer"] + side, one["change"], ".", color=color, markersize=3.5)
        ax.axhline(0, color=QUIET, linewidth=0.8)
        ax.set_xticks(layers)
        title(ax, row, each)
    handles = [Line2D([], [], color=color, linewidth=5, alpha=0.55) for color in BRANCHES.values()]
    legend(figure, handles, [f"without {BRANCH_NAMES[branch]}" for branch in BRANCHES])
    figure.supxlabel("layer", fontsize="medium")
    figure.supylabel(f"change of {metric_heading(metric)}", fontsize="medium")
    return figure


@styled
def magnitudes(magnitudes: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Branch outputs, what they add, and fusion scales per layer; a line of panels per row.

    `magnitudes`: row, seed, data, layer, branch, what, value; `what` is output, contribution or
    scale. Lines: mean over seeds and data, bars from the lowest to the highest seed.
    """
    columns = ["row", "seed", "layer", "branch", "what", "value"]
    drawn = needed(magnitudes, columns, "magnitudes")
    rows, layers = rows_of(drawn), sorted(drawn["layer"].unique())
    figure = Figure(figsize=(width, 1.25 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), len(QUANTITIES), squeeze=False, sharex=True, sharey="col")
    seeds = drawn.groupby(["row", "what", "branch", "layer", "seed"], sort=False)["value"].mean()
    for line, row in zip(grid, rows, strict=True):
        for ax, (what, label) in zip(line, QUANTITIES.items(), strict=True):
            plain(ax)
            ax.set_xticks(layers)
            if row == rows[0]:
                ax.set_ylabel(label)
            for branch, color in BRANCHES.items():
                if (row, what, branch) not in seeds.index.droplevel([3, 4]):
                    continue
                spread = seeds.loc[(row, what, branch)].groupby("layer").agg(["mean", "min", "max"])
                away = [spread["mean"] - spread["min"], spread["max"] - spread["mean"]]
                ax.errorbar(
                    spread.index, spread["mean"], yerr=away, color=color, marker="o",
                    markersize=3.5,
                )  # fmt: skip
        title(line[0], row, width)
    handles = [Line2D([], [], color=color, marker="o") for color in BRANCHES.values()]
    legend(figure, handles, [BRANCH_NAMES[branch] for branch in BRANCHES])
    figure.supxlabel("layer", fontsize="medium")
    return figure
