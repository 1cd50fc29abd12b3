"""Learning over tokens (figure 14) and recall over depth and length (figure 10)."""

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from hymba_lab.figures.style import (
    INK,
    PALE,
    PALETTE,
    WIDE,
    chosen,
    legend,
    marks,
    needed,
    panels,
    rows_of,
    styled,
    title,
)
from hymba_lab.render import metric_heading

_TOGETHER = 6  # rows that one panel can show as lines with bands


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
    drawn = chosen(curves, "metric", metric, "training_curves").dropna(subset=["value"])
    needed(drawn, [], "training_curves")
    rows = rows_of(drawn)
    spread = drawn.groupby(["row", x], sort=False)["value"].agg(["mean", "min", "max"])
    scale, unit = _unit(float(drawn[x].max()), x)
    bands = {row: spread.loc[row].sort_index() for row in rows}
    if len(rows) <= _TOGETHER:
        figure, axes = panels(1, width, 0.55 * width if width > 5 else 0.7 * width)
        styles = marks(rows)
        for row, band in bands.items():
            _band(axes[0], band, scale, styles[row]["color"])
        if len(rows) > 1:
            legend(figure, axes[0].lines, rows)
    else:
        figure, axes = panels(len(rows), width, 1.25)
        each = width / max(1, int(width / 1.55)) - 0.2
        for ax, row in zip(axes, rows, strict=True):
            for other in bands.values():
                ax.plot(other.index / scale, other["mean"], color=PALE, linewidth=0.6)
            _band(ax, bands[row], scale, PALETTE[0])
            title(ax, row, each)
    figure.supxlabel(unit, fontsize="medium")
    figure.supylabel(metric_heading(metric), fontsize="medium")
    return figure


def _band(ax: Axes, band: pd.DataFrame, scale: float, color: str) -> None:
    ax.plot(band.index / scale, band["mean"], color=color)
    ax.fill_between(band.index / scale, band["min"], band["max"], color=color, alpha=0.18, lw=0)


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
    trained_length.
    Cells are means over seeds; a line stands where lengths go beyond the training length.
    """
    columns = ["row", "seed", "length", "depth", "value", "trained_length"]
    drawn = needed(needle, columns, "needle")
    rows = rows_of(drawn)
    lengths, depths = sorted(drawn["length"].unique()), sorted(drawn["depth"].unique())
    figure, axes = panels(len(rows), width, 1.5)
    each = width / max(1, int(width / 1.55)) - 0.2
    picture: ScalarMappable | None = None
    for ax, row in zip(axes, rows, strict=True):
        own = drawn[drawn["row"].astype(str) == row]
        cells = own.pivot_table(index="depth", columns="length", values="value")
        cells = cells.reindex(index=depths, columns=lengths)
        picture = ax.imshow(cells.to_numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for line, depth in enumerate(depths):
            for place, length in enumerate(lengths):
                value = cells.loc[depth, length]
                if pd.notna(value):
                    color = INK if value > 0.6 else "white"
                    said = f"{value:.2f}"
                    ax.text(place, line, said, ha="center", va="center", color=color, size=6)
        beyond = sum(length <= own["trained_length"].iloc[0] for length in lengths)
        ax.axvline(beyond - 0.5, color="white", linewidth=1.6)
        ax.grid(visible=False)
        ax.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
        ax.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
        title(ax, row, each)
    assert picture is not None
    figure.colorbar(picture, ax=axes, label="accuracy [fraction]", aspect=30, pad=0.02)
    figure.supxlabel("length [tokens]; right of the white line: beyond training", fontsize="medium")
    figure.supylabel("depth of the needle (0 start, 1 end)", fontsize="medium")
    return figure
