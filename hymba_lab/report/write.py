"""From an export to the files of a report."""

import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from matplotlib.figure import Figure

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.errors import UserError
from hymba_lab.figures import COLUMN, WIDE, save
from hymba_lab.figures.style import saving
from hymba_lab.report.find import chosen, scale_in
from hymba_lab.report.index import Entry, index_html, keep_readme, read_page
from hymba_lab.report.page import Drawn, report_html
from hymba_lab.report.pictures import Picture, pictures
from hymba_lab.runs.provenance import n_cores
from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import Export, require_exports, sweep_of
from hymba_lab.sweep.standing import lost_values, standing
from hymba_lab.tables.display import Table

PAGE = "report.html"


def write_sweeps(exports: Sequence[Export], results: Path) -> Iterator[Path]:
    """Write every sweep's report, a process per core at work; yield the pages in order."""
    n_workers = min(n_cores(), len(exports))
    if n_workers == 1:
        yield from (write_sweep(export, results) for export in exports)
        return
    with ProcessPoolExecutor(n_workers) as pool:
        yield from pool.map(write_sweep, exports, repeat(results))


def write_sweep(export: Export, results: Path) -> Path:
    """Write tables, figures and page of one sweep into its folder; return the page."""
    folder = results / export.name
    try:
        table, texts = documents(export)
        drawn = draw(pictures(export, table, folder), folder / "figures")
    except UserError as error:
        raise type(error)(f"{folder}: {error}") from None
    others = [
        path.name
        for path in require_exports(results)
        if sweep_of(path.name, scale_in(path)) == sweep_of(export.name, export.scale)
        and path.name != export.name
    ]
    for name, text in {**texts, PAGE: report_html(export, table, drawn, others)}.items():
        write_atomically(folder / name, text)
    return folder / PAGE


def write_index(results: Path) -> Path:
    """Write the page of all sweeps and the table in README.md; return the page."""
    entries = entries_of(chosen(results, []), results)
    further = sorted(path for kind in ("claims", "slopes") for path in results.glob(f"{kind}-*.md"))
    pages = [read_page(path) for path in further]
    write_atomically(results / "index.html", index_html(entries, pages))
    keep_readme(results / "README.md", entries)
    return results / "index.html"


def entries_of(exports: Sequence[Export], results: Path) -> list[Entry]:
    """Return every sweep's entry; one race may tell of a row in another table."""
    lost = lost_values(exports)
    return [Entry(export, table_of(export, results), standing(export, lost)) for export in exports]


def table_of(export: Export, results: Path) -> Table:
    """Return the table of an export; a refusal names its folder."""
    try:
        return documents(export)[0]
    except UserError as error:
        raise type(error)(f"{results / export.name}: {error}") from None


def draw(wanted: list[Picture], folder: Path) -> list[Drawn]:
    """Draw and save the pictures, and take away those that an earlier report links and this not."""
    make_folder(folder, "--results")
    linked = _linked(folder.parent / PAGE)
    drawn, kept = [], set()
    for picture in wanted:
        kept |= set(save(picture.draw(width=WIDE), folder, picture.name))
        wide = (folder / f"{picture.name}.svg").read_text(encoding="utf-8")
        narrow = svg(picture.draw(width=COLUMN), f"{picture.name}-narrow")
        drawn.append(Drawn(picture, wide, narrow))
    for path in folder.iterdir():
        if path not in kept and path.name in linked:
            path.unlink()
    return drawn


def _linked(page: Path) -> set[str]:
    """Return the names of the figures that a page links; others beside them are a user's."""
    try:
        return set(re.findall(r'href="figures/([^"/]+)"', page.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return set()


def svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG text, the same bytes each time."""
    text = io.StringIO()
    with saving(name):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
