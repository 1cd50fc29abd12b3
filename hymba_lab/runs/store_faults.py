"""What goes wrong with a tracking store: is it away for a moment, and what is to be done."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from hymba_lab.errors import StoreError
from hymba_lab.runs.database import fault_of, file_of
from hymba_lab.runs.store_uri import is_server, without_passwords

# what MLflow and the drivers say of a store that is away, where they do not keep the cause
_AWAY = (
    "Connection refused", "connection failed", "server closed the connection", "Max retries",
    "connection was closed", "terminating connection", "the connection is closed",
    "the database system is", "Connection aborted", "API request to",
)  # fmt: skip
_HALF_MADE = ("already exists", "no such table", "no such column", "Can't locate revision")


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Raise what MLflow, its database or its server says as one `StoreError`, with the way out."""
    from http.client import HTTPException

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, HTTPException) as error:
        said = without_passwords(" ".join(str(error).split()))[:300]
        raise StoreError(f"tracking store {uri}: {said}; {_way_out(uri, said)}") from None


def _way_out(uri: str, said: str) -> str:
    """Return what to do about a store's fault."""
    file = file_of(uri)
    other = "or name another with --tracking-uri."
    if file is None:
        return f"check that it can be reached and written, {other}"
    fault = fault_of(file)
    if fault is None and any(sign in said for sign in _HALF_MADE):
        fault = "holds only a part of MLflow's tables"
    if fault is not None:
        return f"{file} {fault}: delete it, it is filled again from runs/, {other}"
    if "locked" in said:
        return f"another process holds it: end that one or try again later, {other}"
    if "full" in said or "disk I/O" in said:
        return f"make room on its disk, {other}"
    return f"check that it can be written, {other}"


def is_away(error: BaseException) -> bool:
    """Whether a store did not answer, which passes, and not refused, which stays."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError | InterfaceError | OperationalError):
            return True
        if isinstance(found, DBAPIError) and found.connection_invalidated:
            return True
        found = found.__cause__ or found.__context__
    return any(sign in str(error) for sign in _AWAY)


def require_server(uri: str) -> None:
    """Refuse a server that does not answer at once; MLflow's own client would try for minutes."""
    if not is_server(uri):
        return
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            return
    except HTTPError:  # it answers; whether we may enter, the first call says
        return
