"""Addresses of stores: drivers filled in, passwords kept apart from everything that is shown.

A password given in an address lives in this process and the workers that it forks, nowhere else:
not in a task, a file, a log or on a page. A worker on another machine needs its own way to the
store (`~/.pgpass`, an MLflow server); without one its run is mirrored by the coordinator.
"""

import json
import os
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from hymba_lab.errors import StoreError

PASSWORDS = "HYMBA_LAB_PASSWORDS"  # address without its passwords, and name -> password, as JSON
SECRETS = frozenset((PASSWORDS,))
"""Environment variables that go to no other machine."""

HIDDEN = "***"
"""What stands for a password in words."""

_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg"}
_IN_TEXT = re.compile(r"(\w[\w+.-]*://[^\s:/@'\"]*):[^\s/@'\"]+@")
_IN_QUERY = ("password", "sslpassword")  # as libpq names them
_IN_TEXT_OF_A_QUERY = re.compile(r"([?&](?:ssl)?password=)[^\s&#'\"]+")


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
        for one in (driver, "psycopg"):  # the tables are made under psycopg's lock
            _require(one, option)
        scheme = f"postgresql+{driver}"
    try:
        parts = urlsplit(f"{scheme}://{rest}")
    except ValueError as error:
        raise _no_store(uri, option, f"is no address ({error})") from None
    clean, found = _apart(parts)
    if clean is None:
        return f"{scheme}://{rest}"
    known = _known()
    for key, password in found.items():
        if password != HIDDEN or key not in known:  # hidden by the process that told us of it
            known[key] = unquote(password)
            os.environ[PASSWORDS] = json.dumps(known)
    return clean


def _apart(parts: SplitResult) -> tuple[str | None, dict[str, str]]:
    """Return an address without its passwords, and those that are not empty by their keys.

    None for an address that has none. One of the query has the name there behind the address.
    """
    words = [word.partition("=") for word in parts.query.split("&")]
    secret = {name: value for name, _, value in words if name in _IN_QUERY}
    if parts.password is None and not secret:
        return None, {}
    user, at, place = parts.netloc.rpartition("@")
    rest = "&".join("".join(word) for word in words if word[0] not in _IN_QUERY)
    netloc = f"{user.partition(':')[0]}{at}{place}"
    clean = urlunsplit(parts._replace(netloc=netloc, query=rest))
    found = {clean: parts.password or ""}  # user:@host, as where a variable is not set
    found |= {f"{clean} {name}": value for name, value in secret.items()}
    return clean, {key: password for key, password in found.items() if password}


def _no_store(uri: str, option: str, why: str) -> StoreError:
    return StoreError(
        f"{option}: {without_passwords(uri)!r} {why}; name a store like sqlite:///mlflow.db, "
        "postgresql://user@host/database or http://host:5000."
    )


def whole(uri: str) -> str:
    """Return an address with its passwords, where this process was told some."""
    known = {key: quote(password, safe="") for key, password in _known().items()}
    query = [f"{name}={known[key]}" for name in _IN_QUERY if (key := f"{uri} {name}") in known]
    if uri not in known and not query:
        return uri
    parts = urlsplit(uri)
    if uri in known:
        user, _, place = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user}:{known[uri]}@{place}")
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, *query]))))


def without_passwords(text: str) -> str:
    """Return a text with every password in it hidden."""
    for password in filter(None, _known().values()):
        text = text.replace(password, HIDDEN)
    return _IN_TEXT_OF_A_QUERY.sub(rf"\1{HIDDEN}", _IN_TEXT.sub(rf"\1:{HIDDEN}@", text))


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
