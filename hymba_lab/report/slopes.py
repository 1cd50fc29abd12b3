"""Sweeps run at several scales: how the effects change with the size."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from hymba_lab.atomic import write_atomically
from hymba_lab.sweep.export import Export, sweep_of, to_csv
from hymba_lab.tables.render import markdown_table, markdown_text
from hymba_lab.tables.scaling import AtScale, slope_table


def write_slopes(exports: Sequence[Export], results: Path) -> list[Path]:
    """Write `slopes-<sweep>.md` and `.csv` for every sweep at two scales or more, of one metric."""
    written = []
    for name, group in groupby(sorted(exports, key=_key), _key):
        own = sorted((one for one in group if not one.runs.empty), key=_params)
        if len(own) < 2:
            continue
        text, table = slopes_of(own)
        for path, content in (
            (results / f"slopes-{name[0]}.md", text),
            (results / f"slopes-{name[0]}.csv", table),
        ):
            write_atomically(path, content)
            written.append(path)
    return written


def slopes_of(exports: Sequence[Export]) -> tuple[str, str]:
    """Return the slopes of one sweep's effects as Markdown and as CSV, smallest scale first."""
    sweep, metric = exports[0].sweep, exports[0].sweep.metric.name
    sizes = [AtScale(one.scale, one.runs, one.facts.baseline) for one in exports]
    timed = sweep.stop is not None
    metric = sweep.stop.metric if sweep.stop is not None else metric
    second = slope_table(sizes, metric, alpha=sweep.alpha, timed=timed)
    told = [
        f"- [{one.name}]({one.name}/table.md): {_params(one):,.0f} parameters in the baseline, "
        f"{one.runs['tokens'].max():,.0f} training tokens a run\n"
        for one in exports
    ]
    head = f"# {markdown_text(sweep.question)} Over the scales\n\n"
    title = markdown_text(second.title)
    text = f"{head}{title}:\n\n{markdown_table(second.columns)}\n\n{''.join(told)}"
    return text, to_csv(second.frame)


def _key(export: Export) -> tuple[str, str]:
    return sweep_of(export.name, export.scale), export.sweep.metric.name


def _params(export: Export) -> float:
    runs = export.runs
    return float(runs.loc[runs["row"] == export.facts.baseline, "params"].iloc[0])
