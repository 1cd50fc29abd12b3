"""Addresses of stores: drivers filled in, passwords kept apart from everything that is shown.

A password given in an address lives in this process and the workers that it forks, nowhere else:
not in a task, a file, a log or on a page. A worker on another machine needs its own way to the
store (`~/.pgpass`, an MLflow server); without one its run is mirrored by the coordinator.
"""

import json
import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

from hymba_lab.errors import StoreError

PASSWORDS = "HYMBA_LAB_PASSWORDS"  # address without its password -> password, as JSON
SECRETS = frozenset((PASSWORDS,))
"""Environment variables that go to no other machine."""

HIDDEN = "***"
"""What stands for a password in words."""

_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg"}
_IN_TEXT = re.compile(r"(\w[\w+.-]*://[^\s:/@'\"]*):[^\s/@'\"]+@")


def remembered(uri: str, option: str) -> str:
    """Return an address without its password, which is kept for `whole`; drivers are filled in.

    Raises `StoreError` for what is no address, for a database in memory, which no other process
    sees, and where the driver of a database is not installed.
    """
    scheme, colon, rest = uri.partition("://")
    kind, _, driver = scheme.partition("+")
    if not uri.strip() or (kind == "sqlite" and rest.lstrip("/") in ("", ":memory:")):
        raise _no_store(uri, option, "holds nothing for another process")
    if not colon:
        return uri
    if kind in _DRIVERS:
        driver = driver or _DRIVERS[kind]
        _require(driver, option)
        scheme = f"postgresql+{driver}"
    try:
        parts = urlsplit(f"{scheme}://{rest}")
    except ValueError as error:
        raise _no_store(uri, option, f"is no address ({error})") from None
    if parts.password is None:
        return f"{scheme}://{rest}"
    user, _, place = parts.netloc.rpartition("@")
    clean = urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{place}"))
    known = _known()
    if not parts.password:  # user:@host, as where a variable is not set
        return clean
    if parts.password != HIDDEN or clean not in known:  # hidden by the process that told us of it
        os.environ[PASSWORDS] = json.dumps({**known, clean: unquote(parts.password)})
    return clean


def _no_store(uri: str, option: str, why: str) -> StoreError:
    return StoreError(
        f"{option}: {without_passwords(uri)!r} {why}; name a store like sqlite:///mlflow.db, "
        "postgresql://user@host/database or http://host:5000."
    )


def whole(uri: str) -> str:
    """Return an address with its password, where this process was told one."""
    password = _known().get(uri)
    if password is None:
        return uri
    from urllib.parse import quote

    parts = urlsplit(uri)
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def without_passwords(text: str) -> str:
    """Return a text with every password in it hidden."""
    for password in filter(None, _known().values()):
        text = text.replace(password, HIDDEN)
    return _IN_TEXT.sub(rf"\1:{HIDDEN}@", text)


def is_postgresql(uri: str) -> bool:
    """Whether an address is one of PostgreSQL."""
    return uri.startswith("postgresql")


def is_server(uri: str) -> bool:
    """Whether an address is one of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def _known() -> dict[str, str]:
    try:
        known = json.loads(os.environ.get(PASSWORDS) or "{}")
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(one, str) for one in known.values()):
        raise StoreError(
            f"{PASSWORDS} is no JSON object of passwords by address; unset it: it is set by the "
            "commands themselves, from the address that --tracking-uri gives."
        )
    return known


def _require(driver: str, option: str) -> None:
    from importlib.util import find_spec

    if find_spec(driver) is None:
        raise StoreError(
            f"{option}: the driver {driver} for PostgreSQL is not installed; "
            "pip install 'hymba-lab[postgres]'."
        )
