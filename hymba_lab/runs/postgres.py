"""PostgreSQL as a store: reached or refused in one sentence, its tables made by one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from hymba_lab.errors import StoreError
from hymba_lab.runs.store_uri import is_postgresql, whole, without_passwords

_CONNECT_S = 10


@contextmanager
def sole_maker(uri: str, what: str) -> Iterator[None]:
    """Hold PostgreSQL's advisory lock for the tables of `what` meanwhile; nothing for other stores.

    Two processes that make tables in one empty database break each other; the second one finds
    them made.
    """
    if not is_postgresql(uri):
        yield
        return
    with _locked(uri, crc32(f"hymba_lab {what}".encode())):
        yield  # closing the connection gives the lock back


def _locked(uri: str, number: int) -> Any:
    """Return a connection that holds an advisory lock; raises `StoreError` where there is none."""
    import psycopg

    try:
        connection = psycopg.connect(
            _plain(whole(uri)), connect_timeout=_CONNECT_S, autocommit=True
        )
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", [number])
        except BaseException:
            connection.close()
            raise
    except psycopg.ProgrammingError as error:  # what is asked, not who is asked
        raise StoreError(
            f"{uri}: {said(error)}; write it like postgresql://user@host/database."
        ) from None
    except psycopg.Error as error:
        raise StoreError(
            f"{uri}: {said(error)}; see that it runs and that you may enter."
        ) from None
    return connection


def said(error: BaseException) -> str:
    """Return an error's text in one line, without passwords."""
    return without_passwords(" ".join(str(error).split()))[:300]


def _plain(uri: str) -> str:
    """Return the address as libpq reads it: without SQLAlchemy's driver."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"
