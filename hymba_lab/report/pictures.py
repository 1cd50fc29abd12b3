"""Which figures a sweep has, and what each shows in words."""

import math
import statistics
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from hymba_lab import figures
from hymba_lab.errors import StoreError
from hymba_lab.probes.columns import TEXT as PROBE_TEXT
from hymba_lab.probes.whose import require_same
from hymba_lab.report.courses import course
from hymba_lab.sweep.documents import task_of_export
from hymba_lab.sweep.export import Export, curve_metrics
from hymba_lab.tables.csv_frame import read_csv
from hymba_lab.tables.display import Table
from hymba_lab.tables.sentence import listed, metric_words
from hymba_lab.tables.solving import Task

COSTS = {"cache_bytes": "cache", "flops_per_token": "FLOPs per token"}
_ALIKE = 0.01  # costs within 1 % of each other make no picture


@dataclass(frozen=True)
class Picture:
    """One figure: `draw(width=...)` [inch] makes it, `says` is what it shows without it."""

    name: str
    title: str
    caption: str
    says: str
    draw: Callable[..., Figure]


def pictures(export: Export, table: Table, folder: Path) -> list[Picture]:
    """Return the figures of a sweep: times, courses, costs, the probes in `folder`/probes.

    All of them give a row the same colour and mark.
    """
    return [
        *_solved(export), *_courses(export), *_costs(export, table), *_probes(export, folder),
    ]  # fmt: skip


def _rows(export: Export) -> list[str]:
    return list(dict.fromkeys(map(str, export.runs["row"])))


def _solved(export: Export) -> Iterator[Picture]:
    """When runs solved the task, where the sweep names a level to stop at."""
    task = task_of_export(export) if export.sweep.stop is not None else None
    if task is None or not any(task.times.values()):
        return
    lines = [
        {"row": row, "seed": seed, "tokens": run.time, "solved": run.solved}
        for row, own in task.times.items()
        for seed, run in own.items()
    ]
    told = listed(
        f"{row} {sum(run.solved for run in own.values())} of {len(own)}"
        for row, own in task.times.items()
    )
    alpha = export.sweep.alpha
    yield Picture(
        "solved_over_tokens",
        "When the task was solved",
        f"Share of runs whose {metric_words(task.metric)} has passed {task.at:.3g} (Kaplan and "
        f"Meier) in its pointwise {100 * (1 - alpha):g} % band; ticks: runs that ended without.",
        f"Solved: {told}.",
        partial(
            figures.solved_over_tokens, pd.DataFrame(lines), rows=_rows(export), alpha=alpha
        ),
    )  # fmt: skip


def read_probes(folder: Path, rows: Collection[str]) -> dict[str, pd.DataFrame]:
    """Return probe -> frame of every `folder`/probes/*.csv; other rows than `rows` are refused."""
    frames = {}
    for path in sorted((folder / "probes").glob("*.csv")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: cannot be read: {error}.") from None
        frames[path.stem] = frame = read_csv(path, text, PROBE_TEXT)
        unknown = [row for row in frame.get("row", ()) if row not in rows]
        if unknown:
            raise StoreError(
                f"{path}: {unknown[0]!r} is no row of this sweep; the probes are of other runs. "
                "Probe again with `python -m hymba_lab.probes`."
            )
    return frames


def _courses(export: Export) -> Iterator[Picture]:
    """A figure per metric of a whole task."""
    x: Literal["step", "tokens"] = "step" if export.curves["tokens"].isna().any() else "tokens"
    there = set(export.curves["metric"])
    for metric in filter(there.__contains__, whole_metrics(export)):
        words = metric_words(metric)
        lines, ended = course(export, metric)
        yield Picture(
            f"training_curves_{metric.partition('/')[2]}",
            f"Learning curves: {words}",
            f"Mean of the seeds, in a band from the lowest to the highest of them. {ended}".strip(),
            f"{_upper(words)} over training, {_ends(lines, metric)}.",
            partial(figures.training_curves, lines, metric=metric, x=x, rows=_rows(export)),
        )


def whole_metrics(export: Export) -> list[str]:
    """Return the table's metrics of whole tasks; the groups within one are left to the table."""
    return [name for name in curve_metrics(export.sweep) if name.count("/") == 1]


def _ends(curves: pd.DataFrame, metric: str) -> str:
    own = curves[curves["metric"] == metric]
    last = own[own["step"] == own.groupby("row")["step"].transform("max")]
    means = last.groupby("row", sort=False)["value"].mean()
    return "at the end " + listed(f"{row} {value:.3g}" for row, value in means.items())


def _costs(export: Export, table: Table) -> Iterator[Picture]:
    """Quality against every cost that differs: of a task, how soon it was solved.

    What a run of it reaches says only when it was stopped.
    """
    task = task_of_export(export)
    if task is None:
        frame, goal, what = table.frame, table.goal, _upper(metric_words(table.metric))
        title, absent = "Quality", "not measured"
        shown = f"Mean with its {100 * (1 - export.sweep.alpha):g} % interval"
    else:
        frame, goal = frame_of_times(table.frame, task), "minimize"
        title, what, absent = "Time to solve", "Training tokens until solved", "not always solved"
        shown = "Geometric mean of the seeds, from the soonest to the latest; a row that not every "
        shown += "run solved has no point"
    for cost in differing_costs(table):
        words, paper = COSTS[cost], paper_costs(export) if cost == "cache_bytes" else None
        beside = " Right: the paper's own models, data and scale." if paper is not None else ""
        yield Picture(
            f"trade_off_{cost}",
            f"{title} against {words}",
            f"{shown}; {words} is exact: at the ring of a row that stands aside. "
            f"Dashed: what no other row beats in both.{beside}",
            f"{what} against {words}; the numbers are in the table.",
            partial(
                figures.trade_off, frame, goal=goal, cost=cost, absent=absent,
                paper=paper, paper_metric=_paper_metric(export), rows=_rows(export),
            ),
        )  # fmt: skip


def frame_of_times(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the table with thousands of tokens until solved as its mean, NaN where not always."""
    found = frame.copy()
    found["metric"] = "training tokens until solved [k]"
    for place, row in frame["row"].items():
        runs = task.times.get(str(row), {}).values()
        times = [run.time / 1000 for run in runs] if runs and all(r.solved for r in runs) else []
        mean = statistics.geometric_mean(times) if times else math.nan
        ends = (min(times), max(times)) if times else (math.nan, math.nan)
        found.loc[place, ["mean", "mean_low", "mean_high"]] = [mean, *ends]
    return found


def paper_costs(export: Export) -> pd.DataFrame | None:
    """Return row, cost [bytes] and value of the paper's rows; None where it prints no two."""
    paper = export.sweep.paper
    if paper is None:
        return None
    rows = [row for row in paper.values if row in paper.caches]
    lines = [{"row": row, "cost": paper.caches[row], "value": paper.values[row]} for row in rows]
    return pd.DataFrame(lines) if len(lines) > 1 else None


def _paper_metric(export: Export) -> str:
    """Return what the paper's numbers are: its label without the place and the circumstances."""
    label = export.sweep.paper.label if export.sweep.paper else ""
    return label.rpartition(": ")[2].partition(",")[0]


def differing_costs(table: Table) -> list[str]:
    """Return the costs in which measured rows differ by more than 1 %."""
    measured = table.frame.dropna(subset=["mean"])
    known = {cost: measured[cost].dropna().astype("float64") for cost in COSTS}
    return [
        cost
        for cost, values in known.items()
        if len(values) and values.max() > values.min() * (1 + _ALIKE)
    ]


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _probes(export: Export, folder: Path) -> Iterator[Picture]:
    require_same(folder, export.runs.to_dict("records"))
    frames = read_probes(folder, set(export.runs["row"]))
    for name, (title, caption) in _PROBES.items():
        if name not in frames or frames[name].empty:
            continue
        rows = {"rows": _rows(export)} if name in _MARKED else {}
        draw = partial(getattr(figures, _FUNCTIONS.get(name, name)), frames[name], **rows)
        if name != "removal":
            yield Picture(name, title, caption, f"{title}. {caption}", draw)
            continue
        there = set(frames[name]["metric"])
        for metric in filter(there.__contains__, whole_metrics(export)):
            words = f"{title}: {metric_words(metric)}"
            label = f"removal_{metric.partition('/')[2]}"
            yield Picture(
                label, words, caption, f"{words}. {caption}", partial(draw, metric=metric)
            )


_FUNCTIONS = {"erf": "erf_against_cache"}
_MARKED = ("erf", "entropy")  # figures in which a row has a mark
_PROBES = {
    "removal": (
        "One branch of one layer silenced",
        "Bars: mean over seeds; dots: every seed. The paper's figures 3 and 13 ask this of its own "
        "models and tasks.",
    ),
    "mass": (
        "Where the maps put their weight",
        "Shares of attention and SSM maps on meta tokens, the first token (BOS), the token itself "
        "and all others; the paper's figure 7.",
    ),
    "meta_attention": (
        "Attention on each meta token",
        "Mean over layers; band: lowest to highest seed; the paper's figure 5.",
    ),
    "entropy": (
        "Entropy of the attention maps",
        "Per layer, and as a share of a uniform map's entropy (dotted where each row has a panel); "
        "the paper's figure 15.",
    ),
    "magnitudes": (
        "Size of the branches",
        "Branch outputs, what they add after the fusion, and its scales, per layer; the paper's "
        "figure 12.",
    ),
    "erf": (
        "Effective receptive field against cache",
        "How far back the last token looks; dots: seeds; the paper's figure 11.",
    ),
    "needle": (
        "Needle in a row of tokens",
        "Accuracy by depth and length, in brackets (where measured) how often a value of the row "
        "was named at all; right of the line: longer than in training; the paper's figure 10.",
    ),
}
