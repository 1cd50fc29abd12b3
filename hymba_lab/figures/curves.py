"""Learning over tokens (figure 14) and recall over depth and length (figure 10)."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hymba_lab.figures.style import (
    INK,
    PALE,
    SIZE,
    TOGETHER,
    WIDE,
    Mark,
    legend,
    line_of,
    marks,
    needed,
    only,
    panels,
    rows_of,
    side_label,
    spread,
    styled,
    tokens_unit,
)
from hymba_lab.tables.display import metric_heading


@styled
def training_curves(
    curves: pd.DataFrame,
    *,
    metric: str,
    x: Literal["tokens", "step"] = "tokens",
    rows: Sequence[str] = (),
    width: float = WIDE,
) -> Figure:
    """One metric over training: the mean of the seeds, in a band from the lowest to the highest.

    `curves`: row, seed, step, tokens, metric, value, a line per validation. Up to six rows share a
    panel; more get a panel each, before the pale means of all others. A row with one validation is
    a point. `rows` are all rows of the report, whose order gives them their marks.
    """
    needed(curves, ["row", "seed", x, "metric", "value"], "training_curves")
    drawn = needed(only(curves, "metric", metric, "training_curves"), [], "training_curves")
    own, bands = rows_of(drawn), spread(drawn, ["row", x]).sort_values(x)
    styles = marks([*rows, *own])
    scale, unit = (1.0, "optimizer steps") if x == "step" else tokens_unit(float(drawn[x].max()))
    bands[x] = bands[x] / scale
    if len(own) <= TOGETHER:
        figure, (ax,) = panels([""], width, 0.45 * width if width > 5 else 0.62 * width)
        for row in own:
            _band(ax, bands[bands["row"] == row], x, styles[row])
        if len(own) > 1:
            legend(figure, ax.lines, own)
    else:
        figure, axes = panels(own, width, 1.05)
        for ax, row in zip(axes, own, strict=True):
            for _, other in bands.groupby("row", sort=False):
                ax.plot(other[x], other["mean"], color=PALE, linewidth=0.6)
            _band(ax, bands[bands["row"] == row], x, styles[row])
    figure.supxlabel(unit)
    side_label(figure, metric_heading(metric))
    return figure


def _band(ax: Axes, band: pd.DataFrame, x: str, style: Mark) -> None:
    """Draw a course in its band; one validation as a point with its reach."""
    if len(band) == 1:
        ax.plot(band[x], band["mean"], markersize=5, **{**style, "linestyle": "none"})
        ax.vlines(band[x], band["low"], band["high"], color=style["color"], linewidth=0.8)
        return
    ax.plot(band[x], band["mean"], **line_of(style))
    ax.fill_between(band[x], band["low"], band["high"], color=style["color"], alpha=0.16, lw=0)


@styled
def needle(needle: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Accuracy by depth of the needle and length of the row, a heat map per row of the sweep.

    `needle`: row, seed, length [tokens], depth (0 start, 1 end), value [fraction],
    trained_length, and where it was measured answered: how often the answer was a value of the row
    at all, in brackets. Cells are means over seeds; right of the white line is beyond training.
    """
    columns = ["row", "seed", "length", "depth", "value", "trained_length"]
    drawn = needed(needle, columns, "needle")
    rows = rows_of(drawn)
    lengths, depths = sorted(drawn["length"].unique()), sorted(drawn["depth"].unique())
    known = "answered" in drawn
    figure, axes = panels(rows, width, (0.3 if known else 0.22) * len(depths) + 0.15)
    for ax, row in zip(axes, rows, strict=True):
        own = drawn[drawn["row"] == row]
        values, answered = (
            own.pivot_table(index="depth", columns="length", values=name)
            .reindex(index=depths, columns=lengths)
            .to_numpy()
            for name in ("value", "answered" if known else "value")
        )
        ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        cells = zip(_places(values.shape), values.flat, answered.flat, strict=True)
        for (line, place), value, named in cells:
            said = "" if pd.isna(value) else f"{value:.2f}" + f"\n({named:.2f})" * known
            color = INK if value > 0.55 else "white"
            ax.text(place, line, said, ha="center", va="center", color=color, size=6)
        trained = sum(length <= own["trained_length"].iloc[0] for length in lengths)
        ax.axvline(trained - 0.5, color="white", linewidth=2)
        ax.grid(visible=False)
        ax.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
        ax.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    said = "correct [fraction], in brackets: answered at all" if known else "accuracy [fraction]"
    figure.suptitle(said, x=0.01, ha="left", fontsize=SIZE)
    figure.supxlabel("length [tokens]; right of the white line: beyond training")
    side_label(figure, "depth (0 start)")
    return figure


def _places(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(line, place) for line in range(shape[0]) for place in range(shape[1])]
