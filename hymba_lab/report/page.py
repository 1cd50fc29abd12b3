"""One sweep as one HTML page that needs no other file: its pictures and style are in it."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from hymba_lab.report.pictures import Picture
from hymba_lab.report.sections import (
    cost_note,
    measured,
    origin_list,
    runs_table,
    scale_note,
    unmeasured,
)
from hymba_lab.report.tables_html import result_html, table_html
from hymba_lab.report.tuned import tuning_table
from hymba_lab.sweep.export import Export
from hymba_lab.sweep.tuned import NAME as TUNING
from hymba_lab.tables.display import Table
from hymba_lab.tables.sentence import sentence

_OUTLINE = re.compile(r' d="[^"]*"')
_MORE_DIGITS = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Drawn:
    """A picture with its SVG for a wide screen and for a phone."""

    picture: Picture
    wide: str
    narrow: str


def report_html(export: Export, table: Table, drawn: Sequence[Drawn], others: Sequence[str]) -> str:
    """Return the page; `others` are the same sweep's folders at other scales."""
    question, scale = export.sweep.question, export.scale
    links = " · ".join(
        f'<a href="../{escape(name)}/report.html">{escape(name)}</a>' for name in others
    )
    body = f"""<header>
<nav aria-label="Results"><a href="../index.html">All sweeps</a>{links and " · also " + links}</nav>
<h1>{escape(question)}</h1>
<p><span class="scale">scale: {escape(scale)}</span> {escape(scale_note(export))}</p>
<p class="quiet">{escape(export.sweep.source)}</p>
<p class="verdict">{escape(sentence(table))}</p>
</header>
<main>
<h2 id="table">Table</h2>
{result_html(table, f"{export.name}: every row against “{table.baseline}”")}
{"".join(table_html(one.columns, one.title) for one in table.more)}
{bullets([*table.notes, *export.facts.notes], "notes")}
<h2 id="figures">Figures</h2>
<p>{escape(cost_note(table))}</p>
<div class="figures">
{"".join(map(figure_html, drawn))}</div>
<h2 id="measured">What was measured</h2>
{bullets(measured(export, table))}
<h2 id="not-measured">What was not measured</h2>
{bullets(unmeasured(export, table, bool(others), [one.picture for one in drawn]))}
<h2 id="runs">Every compared run</h2>
{runs_table(export)}
{_tuned(export)}<h2 id="provenance">Provenance</h2>
{origin_list(export)}
</main>
<footer>{file_links(export, table, drawn)}</footer>"""
    return document(f"{export.name}: {question}", body)


def _tuned(export: Export) -> str:
    table = tuning_table(export)
    return f'<h2 id="tuned">How each row was tuned</h2>\n{table}\n' if table else ""


def document(title: str, body: str) -> str:
    """Return a whole HTML document around a body."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style()}</style>
</head>
<body>
{body}
</body>
</html>
"""


@cache
def style() -> str:
    """Return the style sheet."""
    return files("hymba_lab.report").joinpath("style.css").read_text(encoding="utf-8")


def bullets(lines: Iterable[str], kind: str = "") -> str:
    """Return an HTML list of plain texts."""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">\n{items}\n</ul>' if kind else f"<ul>\n{items}\n</ul>"


def figure_html(drawn: Drawn) -> str:
    """Return a figure with its caption; a phone gets the narrow drawing."""
    picture = drawn.picture
    return f"""<figure id="{escape(picture.name)}">
<h3>{escape(picture.title)}</h3>
<picture><source media="(max-width: 40rem)" srcset="{embedded(drawn.narrow)}">
<img src="{embedded(drawn.wide)}" alt="{escape(picture.says)}"></picture>
<figcaption>{escape(picture.caption)}</figcaption>
</figure>
"""


def embedded(svg: str) -> str:
    """Return an SVG as a data URI, its outlines in hundredths of a point."""
    short = _OUTLINE.sub(lambda path: _MORE_DIGITS.sub(r"\1", path[0]), svg)
    return "data:image/svg+xml;base64," + base64.b64encode(short.encode()).decode()


def file_links(export: Export, table: Table, drawn: Sequence[Drawn]) -> str:
    """Return links to the files that stand beside the page."""
    more = [f"{one.name}.csv" for one in table.more]
    runs = ["runs.csv", "curves.csv", *([TUNING] if export.tuning is not None else [])]
    texts = ["table.csv", *more, "table.md", "table.tex", *runs, *_TEXTS]
    tables = ", ".join(f'<a href="{name}">{name}</a>' for name in texts)
    lines = [f"<p>Beside this page: {tables}.</p>"]
    if drawn:
        names = ", ".join(
            f"{escape(one.picture.name)} "
            + " ".join(f'<a href="figures/{one.picture.name}.{end}">{end}</a>' for end in _ENDS)
            for one in drawn
        )
        lines.append(f"<p>Figures: {names}.</p>")
    return "\n".join(lines)


_TEXTS = ("sweep.resolved.json", "export.json")
_ENDS = ("svg", "png", "pdf")
