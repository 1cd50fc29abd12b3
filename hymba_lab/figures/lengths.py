"""Cache against the length of the sequence (figure 2): exact, so lines without bands."""

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hymba_lab.figures.aside import apart
from hymba_lab.figures.style import (
    LINE,
    PALETTE,
    SIZE,
    WIDE,
    letters,
    needed,
    plain,
    styled,
)

_LEADER: Any = {"arrowstyle": "-", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0}


@styled
def cache_against_length(cache: pd.DataFrame, *, width: float = WIDE) -> Figure:
    """Cache [MB] by model and sequence length; models of equal cache share a line.

    `cache`: model, kind ("hybrid" or "transformer"), tokens, cache_bytes. Hybrids are solid,
    Transformers dashed. Labels stand at the right end of the lines.
    """
    drawn = needed(cache, ["model", "kind", "tokens", "cache_bytes"], "cache_against_length")
    figure = Figure(figsize=(width, 3.3 if width > 5 else 3.6), layout="constrained")
    ax = figure.subplots()
    plain(ax)
    ax.set_yscale("log")
    ax.set(xlabel="sequence [thousands of tokens]", ylabel="cache [MB, 2 bytes a value]")
    ends = []
    for number, (models, hybrid, line) in enumerate(_lines(drawn)):
        color = PALETTE[number % len(PALETTE)]
        dashes, thick = ("-", 2.2) if hybrid else ("--", 1.1)
        at = [tokens / 1e3 for tokens in line.index]
        ax.plot(at, line / 1e6, color=color, linestyle=dashes, linewidth=thick)
        ends.append((float(line.iloc[-1]) / 1e6, ", ".join(models), color))
    ax.set_xlim(left=0, right=float(drawn["tokens"].max()) / 1e3)
    ax.xaxis.set_major_locator(MaxNLocator(4 if width > 5 else 2, steps=[1, 2, 4, 8, 10]))
    ax.yaxis.set_major_locator(LogLocator(subs=[1, 3]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    _end_labels(ax, ends, 0.3 * width)
    return figure


def _lines(drawn: pd.DataFrame) -> list[tuple[list[str], bool, "pd.Series[float]"]]:
    """Return models, whether one is a hybrid, and bytes by tokens; the largest cache first."""
    table = drawn.pivot_table(index="model", columns="tokens", values="cache_bytes", sort=False)
    table = table.sort_index(axis=1)
    hybrids = set(drawn.loc[drawn["kind"] == "hybrid", "model"])
    found: list[tuple[list[str], bool, pd.Series[float]]] = []
    for values, alike in table.groupby(list(table.columns), sort=False):
        models = [str(model) for model in alike.index]
        line = pd.Series(values, index=table.columns, dtype=float)
        found.append((models, not hybrids.isdisjoint(models), line))
    return sorted(found, key=lambda entry: -entry[2].iloc[-1])


def _end_labels(ax: Axes, ends: Sequence[tuple[float, str, str]], room: float) -> None:
    """Write each label right of its line's end, moved apart where they would overlap."""
    texts = [
        ax.annotate(
            "\n".join(textwrap.wrap(label, letters(room))), (1, end), (14, 0), va="center",
            xycoords=("axes fraction", "data"), textcoords="offset points",
            size=SIZE - 0.5, arrowprops=_LEADER | {"color": color},
        )
        for end, label, color in ends
    ]  # fmt: skip
    figure = ax.get_figure(root=True)
    assert figure is not None
    points = 72 / figure.dpi
    heights = [(text.get_text().count("\n") + 1) * LINE * 72 * 0.87 for text in texts]
    for _ in range(3):  # the layout makes room for the labels, which moves the lines' ends
        figure.draw_without_rendering()
        wanted = [float(ax.transData.transform((0, end))[1]) * points for end, _, _ in ends]
        for text, end, place in zip(texts, wanted, apart(wanted, heights), strict=True):
            text.set_position((14, place - end))
