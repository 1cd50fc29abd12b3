"""All sweeps on one page, and the table of sweeps in results/README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from hymba_lab.atomic import write_atomically
from hymba_lab.report.page import document
from hymba_lab.report.sections import size_note
from hymba_lab.sweep.export import Export
from hymba_lab.tables.display import Table
from hymba_lab.tables.sentence import ANSWERS, kind, sentence

START = "<!-- sweeps: this table is written by python -m hymba_lab.report -->"
END = "<!-- end of sweeps -->"


@dataclass(frozen=True)
class Entry:
    """One sweep in the list: its export, its table, and which rows stand at a value that lost."""

    export: Export
    table: Table
    standing: str = ""

    @property
    def answer(self) -> str:
        """The verdict in a sentence, and what is to be said against it."""
        return f"{sentence(self.table)} {self.standing}".strip()


@dataclass(frozen=True)
class Page:
    """A further page over all sweeps, and its answer in one sentence, where it gives one."""

    name: str
    answer: str = ""


def read_page(path: Path) -> Page:
    """Return a page of `hymba_lab.claims` or of slopes; its answer is the first bold paragraph."""
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    bold = (text for text in paragraphs if text.startswith("**"))
    return Page(path.name, next(bold, "").replace("**", "").replace("\\", ""))


def index_html(entries: Sequence[Entry], pages: Sequence[Page]) -> str:
    """Return the page that lists every sweep with its verdict; `pages` are further files."""
    scales = ", ".join(sorted({entry.export.scale for entry in entries}))
    done = sum(int((entry.export.runs["status"] == "finished").sum()) for entry in entries)
    links = "\n".join(
        f'<p><a href="{escape(page.name)}">{escape(page.name)}</a>'
        f"{escape(page.answer and f': {page.answer}')}</p>"
        for page in pages
    )
    body = f"""<header>
<h1>Ablations of hybrid-head models: what was asked, and what was found</h1>
<p><span class="scale">scale: {escape(scales)}</span> {len(entries)} sweeps, {done} compared runs.
A verdict is about the seeds, data and budget of its own table. {escape(answered(entries))}</p>
{links and f"<h2>Over all sweeps</h2>{links}"}
</header>
<main class="sweeps">
{"".join(map(_article, entries))}</main>"""
    return document("hymba_lab: results", body)


def _article(entry: Entry) -> str:
    export, name = entry.export, escape(entry.export.name)
    hours = sum(export.facts.hours.values())
    return f"""<article>
<h2><a href="{name}/report.html">{escape(export.sweep.question)}</a></h2>
<p><span class="scale">scale: {escape(export.scale)}</span> {escape(size_note(export))}.</p>
<p class="verdict">{escape(entry.answer)}</p>
<p class="quiet">{name}: {_finished(export)} runs finished; {hours:.2f} h of training with tuning.
<code>{escape(export.facts.command)}</code></p>
</article>
"""


def readme_table(entries: Sequence[Entry]) -> str:
    """Return the Markdown table of all sweeps, between its marks."""
    lines = [
        START,
        "",
        "| sweep | question | verdict | runs | written by |",
        "|---|---|---|---:|---|",
    ]
    for entry in entries:
        name, sweep = entry.export.name, entry.export.sweep
        cells = [
            f"[{name}]({name}/table.md), [page]({name}/report.html)",
            _cell(sweep.question),
            _cell(entry.answer),
            _finished(entry.export),
            f"`{_cell(entry.export.facts.command)}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", answered(entries), "", END])


def answered(entries: Sequence[Entry]) -> str:
    """Say how many comparisons have an answer, also of the tables whose own runs tuned them."""
    raced = [entry for entry in entries if entry.export.sweep.tuning == "race"]
    (n, of), once = _answered(entries)
    (n_raced, of_raced), once_raced = _answered(raced)
    said = f"Of {of} comparisons {n} are answered: better, worse or equivalent"
    said += f"; where a race tuned the rows, {n_raced} of {of_raced}." if raced else "."
    if once[1] < of:
        said += f" Those of the same runs counted once, {once[0]} of {once[1]}"
        said += f" and {once_raced[0]} of {once_raced[1]}." if raced else "."
    return said


def _answered(entries: Sequence[Entry]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many comparisons these tables answer and ask; and the same, equal runs counted once."""
    answers: list[bool] = []
    by_runs: dict[frozenset[frozenset[str]], bool] = {}
    for entry in entries:
        runs = entry.export.runs.groupby("row")["identity"].agg(frozenset)
        for line in entry.table.frame.to_dict("records"):
            found = kind({str(key): value for key, value in line.items()})
            if found != "baseline":
                both = frozenset(runs[row] for row in (line["row"], entry.table.baseline))
                answers.append(found in ANSWERS)
                by_runs[both] = by_runs.get(both, False) or answers[-1]
    return (sum(answers), len(answers)), (sum(by_runs.values()), len(by_runs))


def keep_readme(path: Path, entries: Sequence[Entry]) -> bool:
    """Put the table between its marks in a README; False where there is none with marks."""
    if not path.is_file():
        return False
    before, start, rest = path.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        return False
    write_atomically(path, before + readme_table(entries) + after)
    return True


def _finished(export: Export) -> str:
    return f"{int((export.runs['status'] == 'finished').sum())} of {len(export.runs)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
