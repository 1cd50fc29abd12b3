"""What all figures share: colours, panels, legends, and files that are the same bytes each time."""

import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hymba_lab.atomic import make_folder, write_bytes
from hymba_lab.errors import UserError

WIDE, COLUMN = 6.6, 3.3  # inches: across a page or a screen, and one column of a paper
INK, QUIET, PALE = "#1a1a1a", "#595959", "#c8c8c8"
SIZE = 8.0  # points
LINE = 0.16  # height of a line of text [inch]
TOGETHER = 6  # rows that one panel can show as lines

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, DASHES = ("o", "s", "^", "D", "v", "P", "X"), ("-", (0, (4, 2)), (0, (1, 1.5)))
BRANCHES = {"attention": "#0072B2", "ssm": "#D55E00"}
BRANCH_NAMES = {"attention": "attention", "ssm": "SSM"}

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "figure.labelsize": SIZE,
    "xtick.labelsize": SIZE - 1,
    "ytick.labelsize": SIZE - 1,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "svg.fonttype": "path",
    "text.parse_math": False,  # a row may be called "$a"
    "pdf.fonttype": 42,
}
Mark = dict[str, Any]


@contextmanager
def _style(**more: Any) -> Iterator[None]:
    """Draw in the lab's style; a sign that the font lacks is a box, without a word."""
    with rc_context(STYLE | more), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


styled = _style()  # as a decorator: every text of a figure is made inside


def saving(name: str) -> AbstractContextManager[None]:
    """Let equal figures give equal bytes: their identifiers are salted with the name."""
    return _style(**{"svg.hashsalt": name})


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `folder/name` as whole .svg, .png (200 dots per inch) and .pdf; return the three paths.

    Equal figures give equal bytes: no dates, no program names, identifiers salted with the name.
    """
    make_folder(folder)
    nothing: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    paths = []
    with saving(name):
        for kind, metadata in nothing.items():
            paths.append(folder / f"{name}.{kind}")
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata=metadata, dpi=200)
            write_bytes(paths[-1], content.getvalue())
            figure.set_layout_engine("none")  # laid out once: each layout draws it all again
    return paths


def panels(
    titles: Sequence[str],
    width: float,
    height: float,
    *,
    least: float = 1.55,
    shared: bool = True,
) -> tuple[Figure, list[Axes]]:
    """Return a figure `width` [inch] wide with a panel under each title.

    Panels are `height` [inch] high and at least `least` wide, with tick labels on each. `shared`:
    all have one scale.
    """
    n_columns = max(1, min(len(titles), int(width / least)))
    n_rows = math.ceil(len(titles) / n_columns)
    room = letters(width / n_columns - 0.35)
    wrapped = [textwrap.wrap(text, room) or [""] for text in titles]
    lines = max(map(len, wrapped)) if any(titles) else 0
    figure = Figure(
        figsize=(width, (height + (lines + 1) * LINE) * n_rows + 0.3),
        facecolor="white",
        layout="constrained",
    )
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=shared, sharey=shared).flatten()
    for ax in grid[len(titles) :]:
        ax.remove()
    axes: list[Axes] = list(grid[: len(titles)])
    for ax, text in zip(axes, wrapped, strict=True):
        plain(ax)
        ax.set_title("\n".join(text), loc="left", pad=3)
        ax.tick_params(labelbottom=True, labelleft=True)  # every panel can be read by itself
    return figure, axes


def plain(ax: Axes) -> None:
    """Take the frame off but its lower left corner; pale lines for the y ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#ececec", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=2.5, width=0.6)


def letters(width: float) -> int:
    """Return how many letters of the usual size stand in `width` [inch]."""
    return max(8, int(width * 72 / (SIZE * 0.6)))


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend over the figure, in as many columns as fit, and make the figure taller by it.

    Labels are broken into two lines where the legend would get long otherwise.
    """
    room = letters(figure.get_figwidth())
    columns = _columns(labels, room, 1)
    if max(map(len, columns)) > TOGETHER:
        columns = _columns(labels, room, 2)
    tallest = max(sum(map(len, column)) for column in columns)
    figure.set_figheight(figure.get_figheight() + tallest * LINE + 0.08)
    figure.legend(
        list(handles), ["\n".join(lines) for column in columns for lines in column],
        loc="outside upper left", ncols=len(columns), frameon=False, handlelength=1.8,
        columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2, labelspacing=0.35,
    )  # fmt: skip


def _columns(labels: Sequence[str], room: int, n_lines: int) -> list[list[list[str]]]:
    """Return the labels as lines, in the most columns in which none takes more than `n_lines`."""
    for n in range(len(labels), 0, -1):
        each = math.ceil(len(labels) / n)
        wide = room if n_lines == 1 or n == 1 else room // n
        lines = [textwrap.wrap(label, max(8, wide - 6)) or [""] for label in labels]  # 6: the mark
        columns = [lines[first : first + each] for first in range(0, len(lines), each)]
        widths = [max(len(line) for label in column for line in label) + 6 for column in columns]
        if sum(widths) <= room and max(map(len, lines)) <= n_lines:
            break
    return columns


def side_label(figure: Figure, text: str) -> None:
    """Label the y axes of all panels, in lines as long as the figure is high; legends first."""
    whole = text.replace(" ↑", "\N{NO-BREAK SPACE}↑").replace(" ↓", "\N{NO-BREAK SPACE}↓")
    lines = textwrap.wrap(whole, letters(figure.get_figheight() - 0.6))
    figure.supylabel("\n".join(lines))


def layer_ticks(ax: Axes, layers: Sequence[int], room: float) -> None:
    """Number the layers, as many of them as `room` [inch] has place for."""
    ax.set_xticks(layers[:: math.ceil(len(layers) * 0.2 / room)])


def across(ax: Axes, text: str, y: float, y_of: Literal["data", "axes fraction"]) -> None:
    """Write a row's name from the left edge of the figure, at height `y` of the axes.

    It takes no part in the layout, which would make room for it inside one panel.
    """
    room = letters(ax.figure.get_figwidth())  # type: ignore[union-attr]
    short = text if len(text) <= room else f"{text[: room - 1]}…"
    ax.annotate(
        short, (0, y), (4, 3 if y_of == "axes fraction" else 0), textcoords="offset points",
        xycoords=("figure fraction", y_of), annotation_clip=False, weight="bold",
        va="baseline" if y_of == "axes fraction" else "center",
    ).set_in_layout(False)  # fmt: skip


def marks(rows: Iterable[str]) -> dict[str, Mark]:
    """Return row -> colour, marker and line style; no two of the first 21 rows are alike.

    A row named twice keeps its first place, so that [all rows of a report, rows of one figure]
    gives every figure of the report the same marks.
    """
    found: dict[str, Mark] = {}
    for place, row in enumerate(dict.fromkeys(rows)):
        turn = place // len(PALETTE)
        found[row] = {
            "color": PALETTE[place % len(PALETTE)],
            "marker": MARKERS[(place + turn) % len(MARKERS)],
            "linestyle": DASHES[turn % len(DASHES)],
        }
    return found


def line_of(style: Mark) -> Mark:
    """Return a row's mark as that of a line without points."""
    return {"color": style["color"], "linestyle": style["linestyle"]}


def tokens_unit(largest: float) -> tuple[float, str]:
    """Return what to divide tokens by, and the label of their axis."""
    for scale, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= scale:
            return scale, f"training tokens [{name}]"
    return 1.0, "training tokens"


def rows_of(frame: pd.DataFrame) -> list[str]:
    """Return the rows in the order of their first appearance, which is the sweep's."""
    return list(dict.fromkeys(frame["row"].astype(str)))


def spread(frame: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Return `by`, mean, low, high over seeds; a seed counts with its mean over all else."""
    keys = [*by, "seed"]
    seeds = frame.dropna(subset=[value]).groupby(keys, sort=False, as_index=False)[value].mean()
    groups = seeds.groupby(list(by), sort=False)[value]
    ends = {"mean": groups.mean(), "low": groups.min(), "high": groups.max()}
    return pd.DataFrame(ends).reset_index()


def needed(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the frame, rows as text; `UserError` where a column is absent or no line is left."""
    absent = [name for name in columns if name not in frame]
    if absent:
        raise UserError(f"{figure}: the frame has no column {', '.join(absent)}.")
    if frame.empty:
        raise UserError(f"{figure}: there are no values to draw.")
    return frame.assign(row=frame["row"].astype(str)) if "row" in frame else frame


def only(frame: pd.DataFrame, column: str, value: str | None, figure: str) -> pd.DataFrame:
    """Return the lines with `column` == `value` (None: all); `UserError` names what there is."""
    if value is None:
        return frame
    found = frame[frame[column] == value]
    if found.empty:
        there = ", ".join(sorted(map(str, frame[column].unique()))) or "nothing"
        raise UserError(f"{figure}: no {column} {value!r}; there is {there}.")
    return found
