"""When a task was solved: the share of runs over training tokens, by Kaplan and Meier."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hymba_lab.figures.style import (
    PALE,
    WIDE,
    Mark,
    legend,
    line_of,
    marks,
    needed,
    panels,
    rows_of,
    side_label,
    styled,
    tokens_unit,
)
from hymba_lab.stats import Run, Step, kaplan_meier

_FEW = 2  # rows of which the bands in one panel can be told apart
Stairs = tuple[list[float], list[float], list[float], list[float]]


@styled
def solved_over_tokens(
    solved: pd.DataFrame, *, rows: Sequence[str] = (), alpha: float = 0.05, width: float = WIDE
) -> Figure:
    """Share of a row's runs that have solved the task, over training tokens.

    `solved`: row, seed, tokens, solved (true: then; false: the run ended then, without). Kaplan and
    Meier's curve in its pointwise band at 1 - alpha, with a tick where a run ended without. Up to
    two rows share a panel; more get a panel each, before the pale curves of all others.
    """
    columns = ["row", "seed", "tokens", "solved"]
    drawn = needed(solved, columns, "solved_over_tokens")
    own, styles = rows_of(drawn), marks([*rows, *rows_of(drawn)])
    scale, unit = tokens_unit(float(drawn["tokens"].max()))
    runs = {row: _runs(drawn[drawn["row"] == row], scale) for row in own}
    curves = {row: kaplan_meier(found, alpha=alpha) for row, found in runs.items()}
    end = 1.05 * max(run.time for found in runs.values() for run in found)
    if len(own) <= _FEW:
        figure, axes = panels([""], width, 0.36 * width)
        for row in own:
            _draw(axes[0], runs[row], curves[row], styles[row], end)
        legend(figure, [Line2D([], [], **line_of(styles[row])) for row in own], own)
    else:
        figure, axes = panels(own, width, 1.05)
        for row, ax in zip(own, axes, strict=True):
            for other in own:
                tokens, share, *_ = _stairs(curves[other], _known(runs[other], end))
                ax.plot(tokens, share, color=PALE, linewidth=0.6)
            _draw(ax, runs[row], curves[row], styles[row], end)
    axes[0].set(xlim=(0, end), ylim=(0, 1.04))  # of all panels
    figure.supxlabel(unit)
    side_label(figure, "runs that have solved the task [fraction]")
    return figure


def _runs(lines: pd.DataFrame, scale: float) -> list[Run]:
    pairs = zip(lines["tokens"], lines["solved"], strict=True)
    return [Run(tokens / scale, bool(done)) for tokens, done in pairs]


def _known(runs: Sequence[Run], end: float) -> float:
    """How far a curve is known: to the last run's end, or where all solved, for good."""
    return end if all(run.solved for run in runs) else max(run.time for run in runs)


def _draw(ax: Axes, runs: Sequence[Run], curve: Sequence[Step], style: Mark, end: float) -> None:
    tokens, share, low, high = _stairs(curve, _known(runs, end))
    ax.fill_between(tokens, low, high, color=style["color"], alpha=0.16, lw=0)
    ax.plot(tokens, share, **line_of(style))
    ended = [run.time for run in runs if not run.solved]
    shares = [max((s.solved for s in curve if s.time <= time), default=0.0) for time in ended]
    ax.plot(ended, shares, "|", color=style["color"], markersize=6)


def _stairs(curve: Sequence[Step], end: float) -> Stairs:
    """Return the corners of the stairs: tokens, share, low and high, from 0 to `end`."""
    tokens, levels = [0.0], [(0.0, 0.0, 0.0)]
    for step in curve:
        tokens += [step.time, step.time]
        levels += [levels[-1], (step.solved, step.low, step.high)]
    tokens.append(end)
    levels.append(levels[-1])
    share, low, high = (list(column) for column in zip(*levels, strict=True))
    return tokens, share, low, high
