"""Figures: drawn for few rows and many, legible, the same bytes each time, without torch."""

import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from hymba_lab import figures
from hymba_lab.errors import UserError
from hymba_lab.figures.aside import apart
from hymba_lab.figures.style import marks, save, saving, spread

FEW = ["none", "16"]
LONG = ["7 row 5 with windows in all layers", "10 row 6 with grouped queries, windows, shared keys"]
MANY = [*LONG, *(f"{number} another row" for number in range(11))]
METRIC = "val/recall_accuracy"
SEEDS, LAYERS = (0, 1, 2), 3


def grid(rows: list[str], **columns: list[Any]) -> pd.DataFrame:
    """All combinations of row, seed and the columns, with a value in 0..1 for each."""
    index = pd.MultiIndex.from_product(
        [rows, SEEDS, *columns.values()], names=["row", "seed", *columns]
    )
    frame = index.to_frame(index=False)
    return frame.assign(value=np.random.default_rng(0).uniform(0.05, 0.95, len(frame)))


def curves(rows: list[str]) -> pd.DataFrame:
    frame = grid(rows, step=[10, 20, 30], metric=[METRIC, "val/text_loss"])
    return frame.assign(tokens=frame["step"] * 1000)


def table(rows: list[str]) -> pd.DataFrame:
    n = len(rows)
    mean = np.linspace(0.2, 0.9, n)
    costs = {"cache_bytes": 1e6 * (1 + np.arange(n) // 2), "params": [184_968] * n}
    ends = {"mean": mean, "mean_low": mean - 0.05, "mean_high": mean + 0.05, "metric": METRIC}
    return pd.DataFrame({"row": rows, **ends, **costs})


def removal(rows: list[str]) -> pd.DataFrame:
    of = {"layer": list(range(LAYERS)), "branch": ["attention", "ssm"], "metric": [METRIC]}
    frame = grid(rows, **of)
    return frame.assign(whole=1.0, change=frame["value"] - 1)


def mass(rows: list[str]) -> pd.DataFrame:
    kinds, branches = ["recall", "text"], ["attention", "ssm"]
    frame = grid(rows, data=kinds, layer=[0, 1], branch=branches, head=[0, 1], category=["Meta"])
    parts = [frame.assign(category=name, value=0.25) for name in ("Meta", "BOS", "Self", "Cross")]
    return pd.concat(parts)


def entropy(rows: list[str]) -> pd.DataFrame:
    branches, layers = ["attention", "ssm"], list(range(LAYERS))
    return grid(rows, data=["text"], layer=layers, branch=branches, head=[0]).assign(uniform=3.0)


def magnitudes(rows: list[str]) -> pd.DataFrame:
    what, layers = ["output", "contribution", "scale"], list(range(LAYERS))
    return grid(rows, data=["text"], layer=layers, branch=["attention", "ssm"], what=what)


def needle(rows: list[str]) -> pd.DataFrame:
    frame = grid(rows, length=[64, 128, 256], depth=[0.0, 0.5, 1.0])
    return frame.assign(trained_length=64)


def erf(rows: list[str]) -> pd.DataFrame:
    frame = grid(rows, data=["text"])
    return frame.assign(cache_bytes=3_081_728, tokens=64, value=frame["value"] * 64)


def meta_attention(rows: list[str]) -> pd.DataFrame:
    return grid(rows, data=["recall", "text"], layer=[0, 1], token=list(range(8)))


def lengths(rows: list[str]) -> pd.DataFrame:
    models = [*rows, "as the first"]
    index = pd.MultiIndex.from_product([models, [1000, 8000, 16000]], names=["model", "tokens"])
    frame = index.to_frame(index=False)
    size = frame["model"].map({model: 1 + place for place, model in enumerate(models)})
    size = size.where(frame["model"] != "as the first", 1)
    kinds = frame["model"].eq(rows[-1]).map({True: "hybrid", False: "transformer"})
    return frame.assign(kind=kinds, cache_bytes=size * frame["tokens"] * 1000)


Draw = Callable[[list[str], float], Figure]
DRAWN: dict[str, Draw] = {
    "training_curves": lambda rows, width: figures.training_curves(
        curves(rows), metric=METRIC, width=width
    ),
    "trade_off": lambda rows, width: figures.trade_off(table(rows), goal="maximize", width=width),
    "trade_off_paper": lambda rows, width: figures.trade_off(
        table(rows),
        goal="maximize",
        paper=pd.DataFrame({"row": rows, "cost": 1e8, "value": range(len(rows))}),
        paper_metric="recall [%]",
        width=width,
    ),
    "removal": lambda rows, width: figures.removal(removal(rows), metric=METRIC, width=width),
    "mass": lambda rows, width: figures.mass(mass(rows), width=width),
    "entropy": lambda rows, width: figures.entropy(entropy(rows), width=width),
    "magnitudes": lambda rows, width: figures.magnitudes(magnitudes(rows), width=width),
    "needle": lambda rows, width: figures.needle(needle(rows), width=width),
    "erf_against_cache": lambda rows, width: figures.erf_against_cache(erf(rows), width=width),
    "meta_attention": lambda rows, width: figures.meta_attention(meta_attention(rows), width=width),
    "cache_against_length": lambda rows, width: figures.cache_against_length(
        lengths(rows), width=width
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_any_label_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    """Dollars begin no formula, and a sign that the font lacks is a box without a warning."""
    labels = [r"$\frac{$ a", "$a_b$ ^", 'größe \N{LLAMA} "q"']
    figure = DRAWN[name](labels, figures.WIDE)
    save(figure, tmp_path, "odd")
    with saving("odd"):
        drawn = " ".join(text for text, _ in texts(figure))
    assert "$a_b$ ^" in " ".join(drawn.split())


def texts(figure: Figure) -> list[tuple[str, Any]]:
    """Return every text that is really drawn (ticks outside the view are not), with its extent."""
    drawn: list[Text] = []
    draw_text = Text.draw

    def draw(text: Text, renderer: Any) -> None:
        drawn.append(text)
        draw_text(text, renderer)

    canvas: Any = FigureCanvasAgg(figure)  # its renderer is not typed
    renderer = canvas.get_renderer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.draw(renderer)
    said = [text for text in drawn if text.get_text().strip()]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in said]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "width"),
    [(FEW, figures.COLUMN), (MANY, figures.WIDE)],
    ids=["few in a column", "many across a page"],
)
@pytest.mark.parametrize("name", DRAWN)
def test_no_two_texts_overlap_and_none_is_cut_off(name: str, rows: list[str], width: float) -> None:
    figure = DRAWN[name](rows, width)
    extents = texts(figure)
    assert len(extents) > 5
    page = figure.bbox
    for text, extent in extents:
        assert extent.x0 >= page.x0 - 1 and extent.x1 <= page.x1 + 1, text
        assert extent.y0 >= page.y0 - 1 and extent.y1 <= page.y1 + 1, text
    for (text, extent), (other_text, other) in combinations(extents, 2):
        shared_x = min(extent.x1, other.x1) - max(extent.x0, other.x0)
        shared_y = min(extent.y1, other.y1) - max(extent.y0, other.y0)
        assert shared_x < 1.5 or shared_y < 1.5, (text, other_text)  # pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_every_row_is_named_and_every_axis_has_its_unit(name: str) -> None:
    figure = DRAWN[name](FEW, figures.WIDE)
    said = "\n".join(text for text, _ in texts(figure))
    for row in FEW:
        assert row in said
    if name != "removal":
        assert "[" in said
    assert figure.get_figwidth() == figures.WIDE


@pytest.mark.slow
def test_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        figure = DRAWN["trade_off"](FEW, figures.COLUMN)
        paths = figures.save(figure, tmp_path / folder, "picture")
        assert [path.suffix for path in paths] == [".svg", ".png", ".pdf"]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one" / "picture.svg").read_bytes()


@pytest.mark.slow
def test_no_torch_and_no_global_figure() -> None:
    code = (
        "import sys; from hymba_lab import figures; "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is drawn


def test_bars_are_means_over_seeds_and_dots_the_seeds() -> None:
    frame = removal(["only"])
    ax = figures.removal(frame, metric=METRIC).axes[0]
    means = frame.groupby(["branch", "layer"])["change"].mean()
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(means.to_list())  # type: ignore[attr-defined]
    dots = np.concatenate(
        [np.asarray(line.get_ydata()) for line in ax.lines if line.get_marker() == "."]
    )
    assert sorted(dots) == pytest.approx(sorted(frame["change"]))


def test_the_band_is_the_seeds_range() -> None:
    frame = curves(["only"])
    ax = figures.training_curves(frame, metric=METRIC).axes[0]
    seeds = frame[frame["metric"] == METRIC].groupby("tokens")["value"]
    assert np.asarray(ax.lines[0].get_ydata()) == pytest.approx(seeds.mean().to_numpy())
    ends = ax.collections[0].get_paths()[0].get_extents()
    assert (ends.y0, ends.y1) == pytest.approx((seeds.min().min(), seeds.max().max()))
    assert ends.x1 == pytest.approx(30)  # thousands


def test_a_missing_seed_is_no_zero() -> None:
    frame = curves(["a", "b"])
    frame.loc[(frame["row"] == "a") & (frame["seed"] == 0), "value"] = np.nan
    own = frame[(frame["row"] == "a") & (frame["metric"] == METRIC) & (frame["seed"] != 0)]
    ax = figures.training_curves(frame, metric=METRIC).axes[0]
    means = own.groupby("tokens")["value"].mean().to_numpy()
    assert np.asarray(ax.lines[0].get_ydata()) == pytest.approx(means)


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def front(figure: Figure) -> list[tuple[float, float]]:
    (line,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    return points(line)


def point_marks(ax: Axes) -> list[Line2D]:
    return [line for line in ax.lines if line.get_linestyle() == "None"]


def leaders(ax: Axes) -> list[Line2D]:
    return [line for line in ax.lines if line.get_markevery() == [0]]


def test_the_front_passes_the_points_that_nothing_beats() -> None:
    frame = table(["cheap", "beaten", "good", "dear"])
    frame["cache_bytes"] = [1e6, 2e6, 3e6, 4e6]
    frame["mean"] = [0.5, 0.4, 0.9, 0.8]
    frame[["mean_low", "mean_high"]] = np.nan  # one seed
    assert front(figures.trade_off(frame, goal="maximize"))[:-1] == [(1, 0.5), (3, 0.9)]
    assert front(figures.trade_off(frame, goal="minimize"))[:-1] == [(1, 0.5), (2, 0.4)]


def test_costs_of_several_orders_of_magnitude_stand_on_a_logarithmic_axis() -> None:
    frame = table(["tiny", "twin", "small", "large"])
    frame["cache_bytes"] = [3e4, 3.001e4, 4e6, 1.2e7]
    figure = figures.trade_off(frame, goal="maximize")
    (ax,) = figure.axes
    x = [points(line)[0][0] for line in point_marks(ax)]
    assert ax.get_xscale() == "log" and x[2:] == pytest.approx([4, 12])
    assert 0 < ax.get_xlim()[0] < x[0] < 0.03 < x[1] < 0.05  # twins stand side by side
    frame["cache_bytes"] = [0.0, 1e6, 4e6, 1.2e7]
    assert figures.trade_off(frame, goal="maximize").axes[0].get_xscale() == "linear"


def test_what_was_not_measured_has_no_point_and_is_said() -> None:
    frame = table(["a", "b"])
    frame.loc[1, ["mean", "mean_low", "mean_high"]] = np.nan
    figure = figures.trade_off(frame, goal="maximize")
    assert "b (not measured)" in [text for text, _ in texts(figure)]
    assert [len(points(line)) for line in point_marks(figure.axes[0])] == [1]


CLOSE = [3.851e6, 3.865e6, 3.866e6, 3.868e6, 12.288e6, 12.298e6]  # bytes


def close() -> pd.DataFrame:
    mean = np.array([0.9, 0.8, 0.82, 0.88, 1.2, 0.4])
    ends = {"mean": mean, "mean_low": mean - 0.1, "mean_high": mean + 0.2}
    return table(list("ADCETS")).assign(cache_bytes=CLOSE, **ends)


def inches(ax: Axes, x: float) -> float:
    return float(ax.transData.transform((x, 0))[0]) / ax.figure.dpi


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_mark_beside_its_cost_has_a_leader_to_it(logarithmic: bool) -> None:
    frame = close()
    if logarithmic:
        frame.loc[5, "cache_bytes"] = 3e4
    figure = figures.trade_off(frame, goal="minimize")
    said = [text for text, _ in texts(figure)]  # draws it
    assert "small ring: exact cost of the mark at its line's end" in said
    (ax,) = figure.axes
    assert ax.get_xscale() == ("log" if logarithmic else "linear")
    led = {end: start for start, end in map(points, leaders(ax))}
    at = [points(line)[0] for line in point_marks(ax)]
    assert led.keys() <= set(at) and len(led) >= 3
    true = np.stack([frame["cache_bytes"] / 1e6, frame["mean"]], axis=1)
    assert np.array([led.get(place, place) for place in at]) == pytest.approx(true)
    x = sorted(inches(ax, place) for place, _ in at)
    assert min(right - left for left, right in pairwise(x)) > 5 / 72  # the width of a mark
    ends = [inches(ax, end) for end in ax.get_xlim()]
    assert ends[0] + 3 / 72 < x[0] and x[-1] < ends[1] - 3 / 72  # none is cut by the axis


def test_the_front_passes_true_costs_where_marks_stand_aside() -> None:
    passed = front(figures.trade_off(close(), goal="minimize"))[:-1]
    assert passed == [(3.851, 0.9), (3.865, 0.8), (12.298, 0.4)]


def test_a_field_beside_its_cost_has_a_leader_to_it() -> None:
    figure = figures.erf_against_cache(erf(["a", "b"]))
    assert "small ring: exact cost of the mark at its line's end" in [t for t, _ in texts(figure)]
    assert [points(line)[0][0] for line in leaders(figure.axes[0])] == [3.081728] * 2


def test_marks_far_apart_need_no_leader() -> None:
    frame = table(["a", "b"]).assign(cache_bytes=[1e6, 2e6])
    figure = figures.trade_off(frame, goal="maximize")
    assert not leaders(figure.axes[0])
    assert not any("small ring" in text for text, _ in texts(figure))


def test_the_papers_points_are_their_rows_marks_hollow_in_a_panel_of_their_own() -> None:
    rows = list("abcdefgh")  # the eighth has the first one's colour
    paper = pd.DataFrame({"row": rows, "cost": 1e6 * np.arange(1, 9), "value": range(8)})
    figure = figures.trade_off(table(rows), goal="maximize", paper=paper, paper_metric="x")
    ours, theirs = figure.axes
    drawn = [(line.get_color(), line.get_marker()) for line in point_marks(theirs)]
    assert drawn == [(mark["color"], mark["marker"]) for mark in marks(rows).values()]
    assert len(set(drawn)) == 8
    assert all(line.get_markerfacecolor() == "none" for line in point_marks(theirs))
    assert all(line.get_markerfacecolor() != "none" for line in point_marks(ours))


def test_equal_points_of_the_paper_stand_side_by_side() -> None:
    paper = pd.DataFrame({"row": ["a", "b", "c"], "cost": [1e6, 1e6, 9e6], "value": [1.0, 1, 2]})
    figure = figures.trade_off(
        table(["a", "b", "c"]), goal="maximize", paper=paper, paper_metric="x"
    )
    theirs = figure.axes[1]
    assert [points(line)[0] for line in leaders(theirs)] == [(1, 1), (1, 1)]
    assert len({points(line)[0] for line in point_marks(theirs)}) == 3


def test_heat_map_cells_are_means_and_the_line_is_at_the_training_length() -> None:
    frame = needle(["only"])
    ax = figures.needle(frame).axes[0]
    cells = frame.pivot_table(index="depth", columns="length", values="value").to_numpy()
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(cells)
    assert list(np.asarray(ax.lines[0].get_xdata())) == [0.5, 0.5]  # between 64 and 128


def test_models_of_equal_cache_share_a_line() -> None:
    figure = figures.cache_against_length(lengths(FEW))
    assert len(figure.axes[0].lines) == len(FEW)
    assert "none, as the first" in [text for text, _ in texts(figure)]


def test_marks_differ_for_as_many_rows_as_a_table_has() -> None:
    found = marks(map(str, range(21))).values()
    assert len({(mark["color"], mark["linestyle"]) for mark in found}) == 21
    assert len({(mark["color"], mark["marker"]) for mark in found}) == 21


def test_seeds_weigh_the_same_however_many_lines_they_have() -> None:
    frame = pd.DataFrame({"row": "a", "seed": [0, 0, 0, 1], "value": [1.0, 1, 1, 3]})
    (line,) = spread(frame, ["row"]).to_dict("records")
    assert line == {"row": "a", "mean": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.parametrize(
    ("centers", "placed"),
    [
        ([30.0, 10.0], [30.0, 10.0]),
        ([10.0, 10.0], [15.0, 5.0]),
        ([12.0, 10.0, 8.0], [20.0, 10.0, 0.0]),
        ([50.0, 12.0, 10.0], [50.0, 16.0, 6.0]),
        ([24.0, 12.0, 10.0], [25.333, 15.333, 5.333]),
    ],
)
def test_labels_move_as_little_as_they_must(centers: list[float], placed: list[float]) -> None:
    assert apart(centers, [10.0] * len(centers)) == pytest.approx(placed, abs=1e-3)


def test_entropy_is_of_attention_or_of_the_ssm_where_nothing_attends() -> None:
    frame = entropy(["only"])
    ssm = frame[frame["branch"] == "ssm"]
    for given, shown in ((frame, frame[frame["branch"] == "attention"]), (ssm, ssm)):
        line = figures.entropy(given).axes[0].lines[0]
        means = shown.groupby("layer")["value"].mean().to_numpy()
        assert np.asarray(line.get_ydata()) == pytest.approx(means)


# --- what cannot be drawn


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: figures.mass(pd.DataFrame({"row": ["a"]})), "has no column seed, data"),
        (lambda: figures.needle(needle(FEW).iloc[:0]), "no values to draw"),
        (
            lambda: figures.removal(removal(FEW), metric="val/x"),
            "no metric 'val/x'; there is val/r",
        ),
        (lambda: figures.entropy(entropy(FEW), data="code"), "no data 'code'; there is text"),
        (lambda: figures.training_curves(curves(FEW), metric="x"), "no metric 'x'"),
    ],
)
def test_a_frame_that_does_not_fit_is_said(draw: Callable[[], Figure], said: str) -> None:
    with pytest.raises(UserError, match=said):
        draw()
