"""A new sqlite store for MLflow: its tables are made once for each version, then copied.

MLflow makes them by all migrations that it ever had, which takes 5 to 10 s.
"""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from hymba_lab.atomic import cache_folder
from hymba_lab.errors import DataError
from hymba_lab.runs.database import fault_of, file_of, url_of


def make_tables(url: str, artifacts: str) -> None:
    """Fill a new sqlite file; `artifacts` is where those of MLflow's first experiment lie."""
    file = file_of(url)
    assert file is not None
    with suppress(OSError, DataError, sqlite3.Error):  # without a cache they are made here
        shutil.copyfile(_template(), file)
    try:
        _open(file, artifacts)
    except Exception:
        if not file.exists():
            raise
        file.unlink()  # a copy that this MLflow does not take
        _open(file, artifacts)


def _template() -> Path:
    """Return a store with all tables of this MLflow and nothing in them."""
    import mlflow

    kept = cache_folder() / "mlflow" / f"{mlflow.__version__}.db"
    if kept.is_file() and kept.stat().st_size and fault_of(kept) is None:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        draft = Path(folder) / "draft.db"
        _open(draft, folder)
        with closing(sqlite3.connect(draft)) as database, database:
            database.execute("delete from experiments")
        os.replace(draft, kept)
    return kept


def _open(file: Path, artifacts: str) -> None:
    """Let MLflow make what is missing; its engine lets go of the file, made or not."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    url = url_of(file)
    try:
        SqlAlchemyStore(url, artifacts)  # type: ignore[no-untyped-call]
    finally:  # MLflow keeps the engine: the next attempt would write into the file that was removed
        engine = SqlAlchemyStore._engine_map.pop(url, None)
        if engine is not None:
            engine.dispose()
