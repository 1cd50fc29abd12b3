"""The parts of a page that are words: what was measured, what was not, which runs, from where."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from hymba_lab.report.pictures import COSTS, Picture, differing_costs
from hymba_lab.report.tables_html import table_html
from hymba_lab.sweep.documents import origin
from hymba_lab.sweep.export import Export
from hymba_lab.tables.display import Column, Table, metric_heading
from hymba_lab.tables.numbers import MISSING, number
from hymba_lab.tables.sentence import listed, metric_words


def scale_note(export: Export) -> str:
    """Return what a result at this scale is about."""
    return f"{size_note(export)}; a result about models of this size, not about the paper's."


def size_note(export: Export) -> str:
    """Return how large models and budgets are."""
    params = export.runs["params"].dropna()
    tokens = export.runs["tokens"].dropna()
    if params.empty or tokens.empty:
        return "no run has finished yet"
    low, high = _rounded(params.min()), _rounded(params.max())
    size = low if low == high else f"{low} to {high}"
    return f"{size} parameters, {_rounded(tokens.iloc[0])} training tokens per run"


def cost_note(table: Table) -> str:
    """Return which costs set the rows apart, and which do not."""
    if table.frame["mean"].isna().all():
        return "No run has finished; there is nothing to draw."
    apart = differing_costs(table)
    alike = [words for cost, words in COSTS.items() if cost not in apart]
    if not alike:
        return "Rows differ in cache and in FLOPs: see quality against each."
    return f"Within 1 % of each other, so not drawn against quality: {listed(alike)} of the rows."


def measured(export: Export, table: Table) -> list[str]:
    """Return what the numbers are of: metrics, data, seeds, budget."""
    data = "; ".join(
        f"{label} ({source.get('name')})" for label, source in export.base.get("data", {}).items()
    )
    places = {
        "val": f"on validation data of: {data}",
        "eval": "on questions of tasks, by the lm-evaluation-harness",
    }
    fewest, most = int(table.frame["seeds"].min()), int(table.frame["seeds"].max())
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    found: dict[str, list[str]] = {}
    for name in (table.metric, *table.also):
        place = places.get(name.partition("/")[0], "as the stage of that name reports it")
        found.setdefault(place, []).append(metric_words(name))
    said = ((place, listed(dict.fromkeys(names))) for place, names in found.items())
    return [
        *(f"{_capital(names)}, {place}." for place, names in said),
        f"Parameters, cache and FLOPs are counted from the configuration, not timed. Tokens/s is "
        f"the speed of training on {'; '.join(export.facts.hardware) or 'unknown hardware'}.",
        f"{seeds} seeds measured in each row; all runs share data, token budget and code meaning.",
    ]


def _capital(text: str) -> str:
    """Return a sentence's beginning; the path of a metric stays as it is."""
    return text if "/" in text.split()[0] else text[0].upper() + text[1:]


def unmeasured(
    export: Export, table: Table, elsewhere: bool, drawn: Sequence[Picture]
) -> list[str]:
    """Return what a reader might look for and will not find."""
    n, done = len(export.runs), int((export.runs["status"] == "finished").sum())
    missing = [note for note in table.notes if note.startswith(("Not measured", "Rows of the"))]
    lines = missing or [f"No run is missing: {done} of {n} planned ones finished."]
    lines.append(
        "None of the paper's benchmarks: they need its models, its data and its budget."
        if export.sweep.paper is None
        else "The paper's own tasks: its numbers (◆) stand beside ours, never mixed with them."
    )
    if not elsewhere:
        lines.append(f"Any other scale than {export.scale}: whether an effect grows or fades.")
    shown = {name.partition("_")[0] for name in (picture.name for picture in drawn)}
    if not shown & {"removal", "mass", "entropy", "magnitudes", "erf", "needle", "meta"}:
        lines.append("What the trained models do inside: no probe of this sweep is exported.")
    return lines


def runs_table(export: Export) -> str:
    """Return a folded table, a line per compared run."""
    runs, metric = export.runs, export.sweep.metric.name
    tuned = [path for path in export.sweep.search if path in runs]
    values = runs[metric] if metric in runs else pd.Series(float("nan"), index=runs.index)
    columns = [
        Column("row", list(runs["row"]), False),
        Column("seed", [str(seed) for seed in runs["seed"]], True),
        Column("state", [_state(line) for line in runs.to_dict("records")], False),
        Column(metric_heading(metric), [number(float(value), 4) for value in values], True),
        *(Column(path, [_short(value) for value in runs[path]], True) for path in tuned),
        Column("training [s]", [number(_float(s), 0) for s in _column(runs, "seconds")], True),
        Column("identity", [str(name)[:12] or MISSING for name in runs["identity"]], False),
        Column("commit", [str(sha)[:10] or MISSING for sha in runs["commit"]], False),
    ]
    caption = f"Compared runs of {export.name}; each is runs/<identity> where it was trained."
    return (
        f"<details><summary>{len(runs)} runs</summary>\n{table_html(columns, caption)}\n</details>"
    )


def origin_list(export: Export) -> str:
    """Return command, commit, hardware, hours, data and scale as a list of terms."""
    told = [tuple(line.split(": ", 1)) for line in origin(export)]
    told += [("Scale", export.scale), ("Source", export.sweep.source or MISSING)]
    items = "\n".join(f"<dt>{escape(a)}</dt><dd>{_code(a, b)}</dd>" for a, b in told)
    return f"<dl>\n{items}\n</dl>"


def _code(term: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if term in ("Command", "Commit", "Data") else escape(text)


def _state(line: dict[Any, Any]) -> str:
    return f"{line['status']}: {line['reason']}" if line["reason"] else str(line["status"])


def _column(runs: pd.DataFrame, name: str) -> list[Any]:
    return list(runs[name]) if name in runs else [float("nan")] * len(runs)


def _float(value: Any) -> float:
    return float("nan") if pd.isna(value) else float(value)


def _short(value: Any) -> str:
    return MISSING if pd.isna(value) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _rounded(count: float) -> str:
    """Return a count in three digits: 184,968 -> 185 thousand."""
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:g}"
