"""Rows keep their marks over a report, panels their scale and ticks, times their curves."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_figures import (
    METRIC,
    curves,
    entropy,
    erf,
    magnitudes,
    meta_attention,
    needle,
    table,
    texts,
)

from hymba_lab import figures
from hymba_lab.figures.style import marks
from hymba_lab.stats import Run, kaplan_meier

ALL = ["Transformer", "Mamba", "hybrid", "Samba-like", "a", "b", "c", "d"]
SHOWN = ["hybrid", "Mamba"]  # as a figure of some rows has them, in another order
LATER = figures.WIDE


def color(row: str) -> str:
    return to_hex(marks(ALL)[row]["color"])


def test_a_row_has_one_colour_in_every_figure_of_a_report() -> None:
    lines = figures.training_curves(curves(SHOWN), metric=METRIC, rows=ALL).axes[0].lines
    assert [to_hex(line.get_color()) for line in lines] == [color(row) for row in SHOWN]  # type: ignore[arg-type]
    whole = figures.training_curves(curves(ALL), metric=METRIC, rows=ALL)
    thick = [ax.lines[-1].get_color() for ax in whole.axes]
    assert [to_hex(one) for one in thick] == [color(row) for row in ALL]  # type: ignore[arg-type]
    for figure in (
        figures.erf_against_cache(erf(SHOWN), rows=ALL),
        figures.trade_off(table(SHOWN), goal="maximize", rows=ALL),
        figures.entropy(entropy(SHOWN), rows=ALL),
    ):
        handles: Any = figure.legends[0].legend_handles
        shown = {
            text.get_text(): handle
            for handle, text in zip(handles, figure.legends[0].texts, strict=True)
        }
        for row in SHOWN:
            handle = shown[row]
            drawn = handle if hasattr(handle, "get_color") else handle[0]
            assert to_hex(drawn.get_color()) == color(row)


def test_every_panel_has_tick_labels() -> None:
    figure = figures.training_curves(curves(ALL), metric=METRIC)
    assert [text for text, _ in texts(figure)].count("20") >= len(ALL)  # thousand tokens
    for ax in (*figure.axes, *figures.magnitudes(magnitudes(SHOWN)).axes):
        assert ax.xaxis.get_tick_params()["labelbottom"] and ax.yaxis.get_tick_params()["labelleft"]


@pytest.mark.parametrize("what", ["magnitudes", "meta_attention"])
def test_panels_that_are_compared_have_one_scale(what: str) -> None:
    frame = {"magnitudes": magnitudes, "meta_attention": meta_attention}[what](SHOWN)
    frame.loc[frame["row"] == "Mamba", "value"] *= 10
    axes = getattr(figures, what)(frame).axes
    n = 3 if what == "magnitudes" else 1
    for column in range(n):
        assert len({ax.get_ylim() for ax in axes[column::n]}) == 1
        low, high = axes[column].get_ylim()
        assert low == 0 and high > 5  # the larger row's


def test_one_validation_is_a_point() -> None:
    frame = curves(SHOWN)
    frame = frame[(frame["row"] == "hybrid") | (frame["step"] == 20)]
    course, point = figures.training_curves(frame, metric=METRIC, rows=ALL).axes[0].lines
    assert (course.get_marker(), len(np.asarray(course.get_xdata()))) == ("None", 3)
    assert point.get_marker() == marks(ALL)["Mamba"]["marker"]
    assert list(np.asarray(point.get_xdata())) == [20.0]


def solved(times: dict[str, list[float]], end: float) -> pd.DataFrame:
    lines = [
        {"row": row, "seed": seed, "tokens": min(t, end), "solved": t <= end}
        for row, own in times.items()
        for seed, t in enumerate(own)
    ]
    return pd.DataFrame(lines)


def test_times_to_solve_are_kaplan_and_meiers_curve_in_its_band() -> None:
    times = {"hybrid": [100.0, 200, 300], "Mamba": [400.0, 9e9, 9e9]}
    ax = figures.solved_over_tokens(solved(times, 500), rows=ALL).axes[0]
    steps = {
        row: [line for line in ax.lines if to_hex(line.get_color()) == color(row)] for row in times
    }  # type: ignore[arg-type]
    hybrid, mamba = steps["hybrid"][0].get_xydata(), steps["Mamba"][0].get_xydata()
    expected = kaplan_meier([Run(t, True) for t in times["hybrid"]])
    for step in expected:
        assert [step.time, round(step.solved, 9)] in np.asarray(hybrid).round(9).tolist()
    assert np.asarray(hybrid)[-1, 0] > 500  # all solved: known for good
    assert np.asarray(mamba)[-1].tolist() == pytest.approx([500, 1 / 3])  # the last run's end
    (ticks,) = [line for line in steps["Mamba"] if line.get_marker() == "|"]
    assert np.asarray(ticks.get_xydata()).tolist() == [[500, pytest.approx(1 / 3)]] * 2
    low, high = ax.collections[1].get_paths()[0].get_extents().get_points()[:, 1]
    (step,) = kaplan_meier([Run(400, True), Run(500, False), Run(500, False)])
    assert (low, high) == (0.0, pytest.approx(step.high))


def test_many_rows_get_a_panel_each_and_none_may_have_solved() -> None:
    times = {row: [100.0 * (k + 1), 9e9, 9e9] for k, row in enumerate(ALL)}
    times["d"] = [math.inf] * 3
    figure = figures.solved_over_tokens(solved(times, 1e6), rows=ALL)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ALL
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    extents = texts(figure)
    assert "training tokens [millions]" in [text for text, _ in extents]


def test_a_needle_says_what_was_answered_where_that_was_measured() -> None:
    plain = [text for text, _ in texts(figures.needle(needle(["only"])))]
    assert not any("(0." in text for text in plain)
    frame = needle(["only"]).assign(answered=0.875)
    said = [text for text, _ in texts(figures.needle(frame))]
    assert sum("(0.88)" in text for text in said) == 9
    assert "correct [fraction], in brackets: answered at all" in said
