"""From the names a user gives to the exports in results/."""

from collections.abc import Sequence
from pathlib import Path

from hymba_lab.errors import UserError, suggest
from hymba_lab.sweep.export import FILES, Export, read_export, require_exports, scale_of, sweep_of


def beside(names: Sequence[str], results: Path) -> Path:
    """Return where the exports stand: beside those that are named by their folders.

    Raises `UserError` for folders that lie in several places, since a report is of one.
    """
    places = {Path(name).parent for name in names if (Path(name) / FILES[0]).is_file()}
    if len(places) > 1:
        where = ", ".join(sorted(map(str, places)))
        raise UserError(f"the sweeps lie in {where}; report those of one folder at a time.")
    return places.pop() if places else results


def chosen(results: Path, names: Sequence[str]) -> list[Export]:
    """Return the exports of these sweeps at all their scales (none named: of every sweep).

    A name is a sweep (`fusion`), one of its scales (`fusion-nano`), or the path of either.
    Raises `UserError` for a name that is not there, and where there is nothing at all.
    """
    folders = require_exports(results)
    for name in names:
        _require_place(Path(name), results)
    wanted: list[Path] = [] if names else folders
    for name in names:
        own = [folder for folder in folders if is_called(folder.name, name, scale_in(folder))]
        if not own:
            known = suggest(name, [folder.name for folder in folders])
            raise UserError(f"{results}: no export of {name!r}{known}")
        wanted += own
    return [read_export(folder) for folder in dict.fromkeys(wanted)]


def _require_place(given: Path, results: Path) -> None:
    """Raise `UserError` for a path to an export that is not there: its name may be elsewhere."""
    named = given.suffix == ".yaml" or given.parent in (Path(), Path("results"), results)
    if not named and not (given / FILES[0]).is_file():
        raise UserError(f"{given}: no export ({FILES[0]}) stands there; see what is in {results}.")


def scale_in(folder: Path) -> str:
    """Return the scale that the export in a folder names; "" where it cannot be read."""
    try:
        return scale_of((folder / "sweep.resolved.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""


def is_called(folder: str, name: str, scale: str = "") -> bool:
    """Whether a user may call `<sweep>-<scale>` so: by sweep, by both, by a path of either."""
    given = Path(name)
    asked = given.stem if given.suffix == ".yaml" else given.name
    return asked in (folder, sweep_of(folder, scale))
