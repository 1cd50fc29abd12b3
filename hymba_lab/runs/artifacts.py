"""Where a local store keeps attached files: below the project's root, wherever that is now.

MLflow writes absolute places into its database. A project that was moved or copied takes its
database along, and the places in it would lead back: they are set right when it is opened.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

FOLDER = "mlartifacts"

_EXPERIMENTS = "select experiment_id, artifact_location from experiments"
_RUNS = "select run_uuid, artifact_uri from runs"


def place_of(root: Path, experiment: str) -> str:
    """Return the URI below `root` for the files of an experiment."""
    return (root / FOLDER / experiment).resolve().as_uri()


def local_path(uri: str) -> Path | None:
    """Return the folder that a place of MLflow's names on this machine, None for any other."""
    found = urlparse(uri)
    if found.scheme == "file":
        return Path(unquote(found.path))
    return Path(uri) if not found.scheme and uri else None


def may_write(uri: str, root: Path) -> bool:
    """Whether files may be attached at a place: below the root, or with a server."""
    path = local_path(uri)
    return path is None or root.resolve() in path.resolve().parents


def moved_along(file: Path, root: Path) -> bool:
    """Whether a database belongs to the project at `root`, and its files with it."""
    return root.resolve() in file.resolve().parents


def set_right(file: Path, root: Path) -> None:
    """Let every place in the project's own database lead below `root`.

    Raises `sqlite3.Error` where the database cannot be read or written.
    """
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        for key, table, column, query in (
            ("experiment_id", "experiments", "artifact_location", _EXPERIMENTS),
            ("run_uuid", "runs", "artifact_uri", _RUNS),
        ):
            old = database.execute(query).fetchall()
            changes = [(new, row) for row, uri in old if (new := _here(str(uri), root)) != str(uri)]
            if changes:
                database.executemany(f"update {table} set {column} = ? where {key} = ?", changes)


def _here(uri: str, root: Path) -> str:
    """Return the place below `root` of what lay below another root; others stay as they are."""
    path = local_path(uri)
    if path is None or FOLDER not in path.parts:
        return uri
    last = len(path.parts) - 1 - path.parts[::-1].index(FOLDER)
    return (root / FOLDER).resolve().joinpath(*path.parts[last + 1 :]).as_uri()
