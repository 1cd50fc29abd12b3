"""Draw the Hymba-like model of this lab with its five ablation axes: block.svg and block.png.

`python analysis/block_picture.py [OUT_DIR]` (default: results). Choices, files, windows and shared
keys are read from the components. Units are pixels of the 1200 x 700 PNG, with y upward.
"""

import sys
from itertools import combinations_with_replacement
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from hymba_lab.components import fusion, heads, kv_sharing, meta_tokens, placement
from hymba_lab.registry import Registry

INK, QUIET, LINE, PANEL = "#1a1a1a", "#595959", "#4d4d4d", "#f4f4f4"
BOX: Any = {"fc": "white", "ec": LINE, "lw": 1.2, "boxstyle": "round,rounding_size=6,pad=0"}
TEXT: Any = {"ha": "center", "va": "center_baseline", "color": INK, "size": 11}  # size in points
CHARACTER = 9.2  # width of a letter of DejaVu Sans Mono at that size
ZOOMED = 5  # the magnified layer; it reads another layer's keys and values
WINDOWS = placement.first_middle_last(7, window=2)
KV_FROM = kv_sharing.adjacent(WINDOWS)
STACK, MIDDLE = 178.0, 550.0  # x of the stack's and of the magnified layer's axis


class Axis(NamedTuple):
    """One question: its name, colour, file and registry, and the choice that is drawn."""

    name: str
    color: str  # Okabe and Ito's palette, told apart by colour-blind readers
    ink: str  # legible on that colour
    module: ModuleType
    choices: Registry[Any]
    drawn: str


FUSION = Axis("Fusion", "#D55E00", "white", fusion, fusion.fusions, "mean")
HEADS = Axis("Head ratio", "#0072B2", "white", heads, heads.heads, "hybrid")
META = Axis("Meta tokens", "#009E73", "white", meta_tokens, meta_tokens.meta_tokens, "learned")
SWA = Axis("SWA placement", "#E69F00", INK, placement, placement.placements, "first_middle_last")
SHARING = Axis("KV sharing", "#CC79A7", INK, kv_sharing, kv_sharing.kv_sharings, "adjacent")
AXES = (FUSION, HEADS, META, SWA, SHARING)


def tint(color: str, share: float) -> list[float]:
    """Return `color` on white paper at this share."""
    return [1 - share * (1 - channel) for channel in to_rgb(color)]


def text(ax: Axes, x: float, y: float, label: str, **style: Any) -> None:
    """Write at (x, y), centred unless `ha` says otherwise."""
    ax.text(x, y, label, **{**TEXT, **style})


def box(ax: Axes, x: float, y: float, w: float, h: float, label: str = "", **style: Any) -> None:
    """Draw a rounded box centred at x that stands on y, its label in the middle."""
    ax.add_patch(FancyBboxPatch((x - w / 2, y), w, h, **{**BOX, **style}))
    text(ax, x, y + h / 2, label, size=12)


def line(ax: Axes, *points: tuple[float, float], color: str = LINE) -> None:
    """Draw an arrow through the points."""
    ax.plot(*zip(*points, strict=True), color=color, lw=1.6, solid_joinstyle="round", zorder=1.5)
    style = {"arrowstyle": "-|>,head_width=0.24,head_length=0.42", "color": color, "lw": 1.6}
    ax.annotate("", points[-1], points[-2], arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def badge(ax: Axes, axis: Axis, x: float, y: float) -> None:
    """Mark a place of the picture with the number of its axis."""
    ax.add_patch(Circle((x, y), 14, fc=axis.color, ec="white", lw=2, zorder=4))
    text(ax, x, y, f"{AXES.index(axis) + 1}", color=axis.ink, weight="bold", size=13, zorder=5)


def draw_layer(ax: Axes, layer: int, y: float, step: float, height: float) -> None:
    """Draw a layer with its mask: which of 6 keys (columns, 1 meta token) 6 queries (rows) see."""
    window, share = WINDOWS[layer], 0.14 if WINDOWS[layer] else 0.55
    edge = INK if layer == ZOOMED else SWA.color
    box(ax, STACK, y, 188, height, fc=tint(SWA.color, share), ec=edge)
    for key, query in combinations_with_replacement(range(6), 2):
        color = META.color if key == 0 else (LINE, 1.0 if query - key < (window or 6) else 0.15)
        ax.add_patch(Rectangle((96 + 6 * key, y + 38 - 6 * query), 5.2, 5.2, fc=color))
    text(ax, 144, y + 36, f"layer {layer}", ha="left", weight="bold")
    text(ax, 144, y + 16, "sliding window" if window else "full attention", ha="left")
    line(ax, (STACK, y + height), (STACK, y + step))
    if KV_FROM[layer] != layer:
        reader, source = y + height / 2, y + height / 2 - step * (layer - KV_FROM[layer])
        line(ax, (84, source), (58, source), (58, reader), (83, reader), color=SHARING.color)
        badge(ax, SHARING, 58, (source + reader) / 2)
        text(ax, 25, (source + reader) / 2, "K, V")


def draw_model(ax: Axes) -> None:
    """Draw the meta tokens in front of the embeddings, the layers and the head over them."""
    for place in range(9):
        color, share = (META.color, 0.6) if place < 3 else (LINE, 0.12)
        box(ax, 94 + 21 * place, 56, 18, 22, fc=tint(color, share), ec=color)
    text(ax, 112, 38, "meta tokens")
    text(ax, 225, 38, "embeddings")
    badge(ax, META, 58, 67)
    floor, step, height = 98.0, 65.0, 52.0
    line(ax, (STACK, 78), (STACK, floor))
    for layer in range(len(WINDOWS)):
        draw_layer(ax, layer, floor + step * layer, step, height)
    badge(ax, SWA, 272, floor + step * 3 + height / 2)
    top, zoom = floor + step * len(WINDOWS), floor + step * ZOOMED
    box(ax, STACK, top, 188, 30, "RMSNorm, LM head")
    line(ax, (STACK, top + 30), (STACK, top + 50))
    text(ax, STACK, top + 64, "logits")
    ax.fill((272, 338, 338, 272), (zoom, 24, 644, zoom + height), color=PANEL, lw=0, zorder=0)


def draw_residuals(ax: Axes) -> None:
    """Draw the stream h = x + mixer(norm(x)), y = h + mlp(norm(h)) around the two halves."""
    box(ax, 558, 24, 440, 620, fc=PANEL, ec="none", zorder=0)
    for y, label in ((80, "RMSNorm"), (489, "RMSNorm"), (532, "MLP")):
        box(ax, MIDDLE, y, 120, 30, label)
    for start, end in ((48, 80), (464, 489), (519, 532), (562, 575), (599, 616)):
        line(ax, (MIDDLE, start), (MIDDLE, end))
    for start, end in ((64, 452), (475, 587)):
        line(ax, (MIDDLE, start), (757, start), (757, end), (MIDDLE + 12, end))
        ax.add_patch(Circle((MIDDLE, end), 12, fc="white", ec=LINE, lw=1.2, zorder=3))
        ax.plot(MIDDLE, end, "+", color=LINE, markersize=10, markeredgewidth=1.6, zorder=4)
    for y, label in ((37, "x"), (633, "y")):
        text(ax, MIDDLE, y, label, style="italic", size=12)


def draw_mixer(ax: Axes) -> None:
    """Draw y = W (norm(a) + norm(s)) / 2 and both branches, which read the same input."""
    box(ax, MIDDLE, 256, 380, 168, fc=tint(FUSION.color, 0.14), ec=FUSION.color)
    attention, ssm = (447, -60, 4, "attention heads", "a"), (653, 60, 16, "SSM heads (Mamba)", "s")
    for x, side, n_parts, name, output in (attention, ssm):
        line(ax, (MIDDLE, 110), (MIDDLE, 128), (x, 128), (x, 152))
        box(ax, x, 152, 174, 80, fc=tint(HEADS.color, 0.14), ec=HEADS.color)
        text(ax, x, 212, name)
        for left in (x - 68 + 136 / n_parts * (part + 0.14) for part in range(n_parts)):
            ax.add_patch(Rectangle((left, 165), 98 / n_parts, 30, fc=HEADS.color))
        line(ax, (x, 232), (x, 270))
        text(ax, x + 14, 244, output, style="italic", size=12)
        box(ax, x, 270, 146, 30, "norm, scale", ec=FUSION.color)
        line(ax, (x, 300), (x, 339), (MIDDLE + side, 339))
    for y, label, end in ((324, "mean", 380), (380, "out proj", 440)):
        box(ax, MIDDLE, y, 120, 30, label, ec=FUSION.color)
        line(ax, (MIDDLE, y + 30), (MIDDLE, end))
    line(ax, (410, 112), (410, 152), color=SHARING.color)
    text(ax, 410, 84, f"K, V of layer {KV_FROM[ZOOMED]}")
    for axis, x, y in ((FUSION, 360, 424), (HEADS, 550, 192), (SHARING, 410, 112)):
        badge(ax, axis, x, y)


def draw_cards(ax: Axes, left: float, right: float, y: float) -> None:
    """List the axes from y downward: file and choices, the one that the picture shows filled."""
    for axis in AXES:
        badge(ax, axis, left - 26, y)
        text(ax, left, y, axis.name, ha="left", weight="bold", size=13)
        path = axis.module.__name__.replace(".", "/") + ".py"
        text(ax, left, y - 25, path, ha="left", color=QUIET, family="monospace")
        x, y = left, y - 65
        for choice in axis.choices:
            width = CHARACTER * len(choice) + 14
            if x + width > right:
                x, y = left, y - 30
            share = 0.35 if choice == axis.drawn else 0.0
            box(ax, x + width / 2, y, width, 24, fc=tint(axis.color, share), ec=axis.color)
            text(ax, x + width / 2, y + 12, choice, family="monospace")
            x += width + 6
        y -= 52


def picture() -> Figure:
    """Return the whole picture."""
    figure = Figure(figsize=(12, 7), dpi=100, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 1200), ylim=(0, 700))
    ax.set_axis_off()
    for x, heading in ((84, "The model"), (338, f"Layer {ZOOMED}, magnified"), (802, "Five axes")):
        text(ax, x, 672, heading, ha="left", weight="bold", size=14.5)
    text(ax, 1190, 671, "filled: the choice drawn", ha="right", color=QUIET)
    for draw in (draw_model, draw_residuals, draw_mixer):
        draw(ax)
    draw_cards(ax, 842, 1190, 624)
    return figure


def main(folder: Path) -> None:
    """Write both files; equal code gives equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "block", "svg.fonttype": "none"}):
        figure = picture()
        figure.savefig(folder / "block.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / "block.png", metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
