"""Learning over tokens (figure 14) and recall over depth and length (figure 10)."""

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hymba_lab.figures.style import (
    INK,
    PALE,
    PALETTE,
    SIZE,
    TOGETHER,
    WIDE,
    legend,
    marks,
    needed,
    only,
    panels,
    rows_of,
    side_label,
    spread,
    styled,
)
from hymba_lab.tables.render import metric_heading


@styled
def training_curves(
    curves: pd.DataFrame,
    *,
    metric: str,
    x: Literal["tokens", "step"] = "tokens",
    width: float = WIDE,
) -> Figure:
    """One metric over training: the mean of the seeds, in a band from the lowest to the highest.

    `curves`: row, seed, step, tokens, metric, value, a line per validation. Up to six rows share a
    panel; more get a panel each, before the pale means of all others.
    """
    needed(curves, ["row", "seed", x, "metric", "value"], "training_curves")
    drawn = needed(only(curves, "metric", metric, "training_curves"), [], "training_curves")
    rows, bands = rows_of(drawn), spread(drawn, ["row", x]).sort_values(x)
    scale, unit = _unit(float(drawn[x].max()), x)
    bands[x] = bands[x] / scale
    if len(rows) <= TOGETHER:
        figure, (ax,) = panels([""], width, 0.45 * width if width > 5 else 0.62 * width)
        styles = marks(rows)
        for row in rows:
            _band(ax, bands[bands["row"] == row], x, styles[row]["color"])
        if len(rows) > 1:
            legend(figure, ax.lines, rows)
    else:
        figure, axes = panels(rows, width, 1.05)
        for ax, row in zip(axes, rows, strict=True):
            for _, other in bands.groupby("row", sort=False):
                ax.plot(other[x], other["mean"], color=PALE, linewidth=0.6)
            _band(ax, bands[bands["row"] == row], x, PALETTE[0])
    figure.supxlabel(unit)
    side_label(figure, metric_heading(metric))
    return figure


def _band(ax: Axes, band: pd.DataFrame, x: str, color: str) -> None:
    ax.plot(band[x], band["mean"], color=color)
    ax.fill_between(band[x], band["low"], band["high"], color=color, alpha=0.16, lw=0)


def _unit(largest: float, x: str) -> tuple[float, str]:
    if x == "step":
        return 1.0, "optimizer steps"
    for scale, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= scale:
            return scale, f"training tokens [{name}]"
    return 1.0, "training tokens"


@styled
def needle(needle: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Accuracy by depth of the needle and length of the row, a heat map per row of the sweep.

    `needle`: row, seed, length [tokens], depth (0 start, 1 end), value [fraction],
    trained_length. Cells are means over seeds; right of the white line is beyond training.
    """
    columns = ["row", "seed", "length", "depth", "value", "trained_length"]
    drawn = needed(needle, columns, "needle")
    rows = rows_of(drawn)
    lengths, depths = sorted(drawn["length"].unique()), sorted(drawn["depth"].unique())
    figure, axes = panels(rows, width, 0.22 * len(depths) + 0.15)
    for ax, row in zip(axes, rows, strict=True):
        own = drawn[drawn["row"] == row]
        cells = own.pivot_table(index="depth", columns="length", values="value")
        values = cells.reindex(index=depths, columns=lengths).to_numpy()
        ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (line, place), value in zip(_places(values.shape), values.flat, strict=True):
            said = "" if pd.isna(value) else f"{value:.2f}"
            color = INK if value > 0.55 else "white"
            ax.text(place, line, said, ha="center", va="center", color=color, size=6.5)
        trained = sum(length <= own["trained_length"].iloc[0] for length in lengths)
        ax.axvline(trained - 0.5, color="white", linewidth=2)
        ax.grid(visible=False)
        ax.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
        ax.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    figure.suptitle("accuracy [fraction]", x=0.01, ha="left", fontsize=SIZE)
    figure.supxlabel("length [tokens]; right of the white line: beyond training")
    side_label(figure, "depth (0 start)")
    return figure


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(line, place) for line in range(shape[0]) for place in range(shape[1])]
