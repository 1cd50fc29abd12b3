"""The layer plan as a picture: one small attention map a layer, as in the paper's figure 6.

A map has queries downward and keys to the right. It is a sketch of what a query sees, not to scale:
meta tokens, then text of a few windows. Layers that read one triple of keys and values stand on a
bar of one colour, and the bar names the layer that makes them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hymba_lab.model.plan import LayerPlan

INK, QUIET, HIDDEN, META, SEEN = "#1a1a1a", "#595959", "#f2f2f2", "#E69F00", "#0072B2"
FULL = "#D55E00"  # frame of a layer that sees everything
BARS = ("#009E73", "#CC79A7", "#56B4E9", "#8C6D31")  # neighbours differ; labels tell groups apart
N_TEXT, N_META, WINDOW = 14, 3, 4  # cells of the sketch
PER_ROW = 8


def draw_maps(name: str, plan: "Sequence[LayerPlan]", n_meta: int) -> Figure:
    """Return the figure of a plan whose layers all see the same `n_meta` meta tokens."""
    n_columns = min(PER_ROW, max(len(plan), 5))
    n_rows = math.ceil(len(plan) / n_columns)
    width, height = 1.55 * n_columns + 0.5, 2.0 * n_rows + 1.25  # inches
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    figure.subplots_adjust(
        left=0.25 / width, right=1 - 0.25 / width, bottom=0.55 / height, top=1 - 0.9 / height,
        wspace=0.0, hspace=0.0,
    )  # fmt: skip
    colors = _bar_colors(plan)
    for ax in axes:
        ax.set_axis_off()
    read = [None, *(layer.kv_from for layer in plan), None]
    for ax, layer, neighbours in zip(axes, plan, zip(read, read[2:], strict=False), strict=False):
        joins = tuple(layer.kv_from == other for other in neighbours)
        _draw_layer(ax, layer, bool(n_meta), colors, joins)
    _write_frame(figure, name, plan, n_meta)
    return figure


def _draw_layer(
    ax: Axes, layer: "LayerPlan", has_meta: bool, colors: dict[int, str], joins: tuple[bool, ...]
) -> None:
    """Draw one map; `joins` says whether the layer before and that after read the same keys."""
    size = N_TEXT + (N_META if has_meta else 0)
    ax.set(xlim=(-1.4, size + 1.4), ylim=(size + 6.2, -2.8), aspect="equal")
    ax.text(0, -0.6, f"{layer.index}", size=10.5, weight="bold", color=INK, va="baseline")
    if layer.kv_from is None:
        ax.add_patch(Rectangle((0, 0), size, size, fc="white", ec=QUIET, lw=1, ls=(0, (3, 3))))
        ax.text(size / 2, size / 2, "SSM only", ha="center", va="center", size=9.5, color=QUIET)
        return
    kind = "full" if layer.window is None else f"window {layer.window}"
    full = layer.window is None
    ax.text(
        size, -0.6, kind, size=9, ha="right", va="baseline", color=FULL if full else QUIET,
        weight="bold" if full else "normal",
    )  # fmt: skip
    ax.imshow(
        visible(layer.window is None, has_meta),
        cmap=ListedColormap([HIDDEN, META, SEEN]), vmin=0, vmax=2,
        extent=(0, size, size, 0), interpolation="nearest",
    )  # fmt: skip
    for line in range(1, size):
        ax.plot([0, size], [line, line], color="white", lw=0.35)
        ax.plot([line, line], [0, size], color="white", lw=0.35)
    edge: Any = {"ec": FULL, "lw": 2.2} if full else {"ec": QUIET, "lw": 0.8}
    ax.add_patch(Rectangle((0, 0), size, size, fc="none", zorder=3, **edge))
    if layer.kv_from in colors:
        _draw_bar(ax, size, layer, colors[layer.kv_from], joins)


def _draw_bar(ax: Axes, size: int, layer: "LayerPlan", color: str, joins: tuple[bool, ...]) -> None:
    """The bar reaches to the neighbours that read the same keys and values."""
    before, after = joins
    left, right = -2.2 * before, size + 2.2 * after
    bar = Rectangle((left, size + 0.9), right - left, 0.9, fc=color, ec="none", clip_on=False)
    ax.add_patch(bar)
    label = "makes K, V" if layer.owns_kv else f"K, V of {layer.kv_from}"
    ax.text(size / 2, size + 4.1, label, size=8.5, ha="center", va="baseline", color=INK)


def visible(full: bool, has_meta: bool) -> "NDArray[np.int8]":
    """Return the sketch (queries, keys): 0 hidden, 1 a meta token, 2 text."""
    import numpy as np

    n_meta = N_META if has_meta else 0
    query, key = np.ogrid[: n_meta + N_TEXT, : n_meta + N_TEXT]
    causal = key <= query
    text = causal & (full | (query - key < WINDOW)) & (key >= n_meta)
    shown: NDArray[np.int8] = np.where(causal & (key < n_meta), 1, np.where(text, 2, 0))
    return shown.astype(np.int8)


def _bar_colors(plan: "Sequence[LayerPlan]") -> dict[int, str]:
    """Return producer -> colour, for the keys and values that more than one layer reads."""
    read = [layer.kv_from for layer in plan if layer.kv_from is not None]
    shared = sorted({producer for producer in read if read.count(producer) > 1})
    return {producer: BARS[place % len(BARS)] for place, producer in enumerate(shared)}


def _write_frame(figure: Figure, name: str, plan: "Sequence[LayerPlan]", n_meta: int) -> None:
    """Write title and legend; distances from the edges are in inches."""
    height = figure.get_figheight()
    attending = [layer for layer in plan if layer.kv_from is not None]
    n_full = sum(layer.window is None for layer in attending)
    n_makers = sum(layer.owns_kv for layer in attending)
    parts = [f"{len(plan)} layers", f"{n_full} full", f"{len(attending) - n_full} with a window"]
    parts += [f"{len(plan) - len(attending)} without attention"] * (len(plan) > len(attending))
    parts += [f"{n_makers} caches of keys and values", f"{n_meta} meta tokens"]
    at: dict[str, Any] = {"x": 0.25 / figure.get_figwidth(), "ha": "left", "va": "baseline"}
    figure.text(y=1 - 0.4 / height, s=name, size=14, weight="bold", color=INK, **at)
    figure.text(y=1 - 0.66 / height, s=" · ".join(parts), size=10, color=QUIET, **at)
    sketch = "queries downward, keys to the right; not to scale"
    at |= {"x": 1 - at["x"], "ha": "right"}
    figure.text(y=1 - 0.4 / height, s=sketch, size=9, color=QUIET, **at)
    handles = [
        *([Patch(fc=META, label="meta token")] if n_meta else []),
        Patch(fc=SEEN, label="text token seen"),
        Patch(fc=HIDDEN, ec=QUIET, lw=0.5, label="hidden"),
        *([Patch(fc="white", ec=FULL, lw=2, label="full attention")] if n_full else []),
        *([Patch(fc=BARS[0], label="keys and values shared")] if _bar_colors(plan) else []),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9.5,
        bbox_to_anchor=(0.5, 0.02 / height), handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
