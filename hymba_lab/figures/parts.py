"""What each branch of each layer carries: removal (figures 3, 13) and magnitudes (figure 12)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hymba_lab.figures.style import (
    BRANCH_NAMES,
    BRANCHES,
    LINE,
    QUIET,
    SIZE,
    WIDE,
    across,
    layer_ticks,
    legend,
    needed,
    only,
    panels,
    plain,
    rows_of,
    side_label,
    spread,
    styled,
)
from hymba_lab.tables.display import metric_heading

QUANTITIES = {
    "output": "branch output\n[RMS]",
    "contribution": "part of the mixer's\nsum [RMS]",
    "scale": "norm weight\n[mean |β|]",
}


@styled
def removal(removal: pd.DataFrame, *, metric: str, width: float = WIDE) -> Figure:
    """Change of a metric when one branch of one layer is silenced; a panel per row.

    `removal`: row, seed, layer, branch, metric, whole, value, change. Bars: mean over seeds, dots:
    every seed.
    """
    columns = ["row", "seed", "layer", "branch", "metric", "change"]
    drawn = only(needed(removal, columns, "removal"), "metric", metric, "removal")
    rows, layers = rows_of(drawn), sorted(drawn["layer"].unique())
    least = max(1.55, min(0.11 * len(layers) + 0.2, width))
    figure, axes = panels(rows, width, 1.25, least=least)
    for ax, row in zip(axes, rows, strict=True):
        for side, (branch, color) in zip((-0.2, 0.2), BRANCHES.items(), strict=True):
            own = drawn[(drawn["row"] == row) & (drawn["branch"] == branch)]
            means = own.groupby("layer")["change"].mean()
            ax.bar(means.index + side, means, width=0.36, color=color, alpha=0.5)
            ax.plot(own["layer"] + side, own["change"], ".", color=color, markersize=4)
        ax.axhline(0, color=QUIET, linewidth=0.8)
        layer_ticks(ax, layers, width / max(1, int(width / least)) - 0.4)
    handles = [Patch(color=color, alpha=0.5) for color in BRANCHES.values()]
    legend(figure, handles, [f"without {BRANCH_NAMES[branch]}" for branch in BRANCHES])
    figure.supxlabel("layer")
    side_label(figure, f"change of {metric_heading(metric)}")
    return figure


@styled
def magnitudes(magnitudes: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Branch outputs, what they add, and fusion scales per layer; a line of panels per row.

    `magnitudes`: row, seed, data, layer, branch, what, value; `what` is output, contribution or
    scale. Lines: mean over seeds and data, bars from the lowest to the highest seed. All rows have
    one scale of a quantity, from 0: rows and branches are compared.
    """
    columns = ["row", "seed", "layer", "branch", "what", "value"]
    drawn = needed(magnitudes, columns, "magnitudes")
    rows, points = rows_of(drawn), spread(drawn, ["row", "what", "branch", "layer"])
    points = points.sort_values("layer")
    layers = sorted(drawn["layer"].unique())
    figure = Figure(figsize=(width, (0.75 + 2 * LINE) * len(rows) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), len(QUANTITIES), squeeze=False, sharex=True, sharey="col")
    for line, row in zip(grid, rows, strict=True):
        line[0].set_title(" ", pad=3)
        across(line[0], row, 1, "axes fraction")
        for ax, what in zip(line, QUANTITIES, strict=True):
            plain(ax)
            ax.tick_params(labelbottom=True, labelleft=True)
            layer_ticks(ax, layers, width / len(QUANTITIES) - 0.4)
            ax.yaxis.set_major_locator(MaxNLocator(3))
            ax.margins(y=0.2)  # room for a mark at the upper edge
            own = points[(points["row"] == row) & (points["what"] == what)]
            if own.empty:
                ax.set_axis_off()
            for branch, color in BRANCHES.items():
                _course(ax, own[own["branch"] == branch], color)
    for ax, heading in zip(grid[0], QUANTITIES.values(), strict=True):
        ax.set_ylim(bottom=0)  # of its whole column
        above = {"xytext": (0, SIZE + 7), "textcoords": "offset points", "ha": "center"}
        ax.annotate(heading, (0.5, 1), xycoords="axes fraction", annotation_clip=False, **above)
    handles = [Line2D([], [], color=color, marker="o") for color in BRANCHES.values()]
    legend(figure, handles, [BRANCH_NAMES[branch] for branch in BRANCHES])
    figure.supxlabel("layer")
    return figure


def _course(ax: Axes, points: pd.DataFrame, color: str) -> None:
    away = [points["mean"] - points["low"], points["high"] - points["mean"]]
    ax.errorbar(points["layer"], points["mean"], yerr=away, color=color, marker="o", markersize=3.5)
