"""Addresses of stores: a password is never shown, a driver is filled in or asked for."""

import os
from importlib import util

import pytest

from hymba_lab.errors import StoreError
from hymba_lab.runs import store_uri
from hymba_lab.runs.postgres import sole_maker
from hymba_lab.runs.store_uri import remembered, whole, without_passwords


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store_uri.PASSWORDS, "{}")


def test_a_password_lives_in_the_process_alone() -> None:
    clean = remembered("postgresql://lab:s%40cret@db.lab:5432/mlflow?sslmode=require", "--x")
    assert clean == "postgresql+psycopg://lab@db.lab:5432/mlflow?sslmode=require"
    assert whole(clean) == "postgresql+psycopg://lab:s%40cret@db.lab:5432/mlflow?sslmode=require"
    assert remembered(whole(clean), "--x") == clean
    assert whole("postgresql+psycopg://lab@db.lab/other") == "postgresql+psycopg://lab@db.lab/other"
    said = f"cannot reach {whole(clean)}: password s@cret is wrong"
    assert "cret" not in without_passwords(said)


def test_a_password_of_the_query_is_no_less_a_secret() -> None:
    """It stood in task files, results, the coordinator's script and logs."""
    given = "postgresql://lab@db/mlflow?sslmode=require&password=ge%26heim&sslpassword=key"
    clean = remembered(given, "--x")
    assert clean == "postgresql+psycopg://lab@db/mlflow?sslmode=require"
    assert whole(clean) == (
        "postgresql+psycopg://lab@db/mlflow?sslmode=require&password=ge%26heim&sslpassword=key"
    )
    assert remembered(whole(clean), "--x") == clean
    shown = without_passwords(f"connection to {given} failed")
    assert "heim" not in shown and "key" not in shown
    hidden = "postgresql://lab@db/mlflow?sslmode=require&password=***&sslpassword=***"
    assert remembered(hidden, "--x") == clean  # as a detached process is told
    assert "ge%26heim" in whole(clean)
    alone = remembered("postgresql://db/mlflow?user=lab&password=two", "--x")
    assert alone == "postgresql+psycopg://db/mlflow?user=lab"
    assert whole(alone) == "postgresql+psycopg://db/mlflow?user=lab&password=two"


def test_a_password_of_a_query_is_hidden_before_it_is_known() -> None:
    assert without_passwords("--tracking-uri=postgresql://db/m?password=geheim&user=x") == (
        "--tracking-uri=postgresql://db/m?password=***&user=x"
    )


@pytest.mark.parametrize("place", ["h/d?foo=bar", "h/%zz"])
def test_an_address_that_postgresql_cannot_read_is_one_sentence(place: str) -> None:
    pytest.importorskip("psycopg")
    with (
        pytest.raises(StoreError, match=r"write it like postgresql://user@host/database"),
        sole_maker(f"postgresql+psycopg://{place}", "x"),
    ):
        pass


def test_a_lock_that_is_refused_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg = pytest.importorskip("psycopg")

    class Refusing:
        closed = False

        def execute(self, *_: object) -> None:
            raise psycopg.errors.AdminShutdown("terminating connection")

        def close(self) -> None:
            self.closed = True

    connection = Refusing()
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: connection)
    with (
        pytest.raises(StoreError, match="terminating connection; see that it runs"),
        sole_maker("postgresql+psycopg://h/d", "x"),
    ):
        pass
    assert connection.closed


def test_another_driver_does_not_lock_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """With psycopg2 alone the command ended in a ModuleNotFoundError."""
    monkeypatch.setattr(util, "find_spec", lambda name: True if name == "psycopg2" else None)
    with pytest.raises(StoreError, match="the driver psycopg for PostgreSQL is not installed"):
        remembered("postgresql+psycopg2://lab@h/d", "--tracking-uri")


@pytest.mark.parametrize(
    "uri", ["sqlite:////a/b.db", "http://server:5000", "file:///x", "postgresql+psycopg://lab@h/d"]
)
def test_what_has_no_password_stays_as_it_is(uri: str) -> None:
    assert remembered(uri, "--x") == uri == whole(uri)
    assert os.environ[store_uri.PASSWORDS] == "{}"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://[::1", "is no address"),
        ("postgresql://lab:secret@[x/y", "is no address"),
        ("sqlite://", "holds nothing for another process"),
        ("sqlite:///:memory:", "holds nothing for another process"),
        ("   ", "holds nothing for another process"),
    ],
)
def test_what_is_no_store_is_one_sentence(uri: str, said: str) -> None:
    with pytest.raises(StoreError, match=f"--tracking-uri: .* {said}.*; name a store like") as told:
        remembered(uri, "--tracking-uri")
    assert "secret" not in str(told.value)


def test_a_server_with_a_password_is_shown_without() -> None:
    assert remembered("https://me:hidden@server/ml", "--x") == "https://me@server/ml"


def test_a_driver_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"--tracking-uri: the driver psycopg .*hymba-lab\[post"):
        remembered("postgresql://lab@h/d", "--tracking-uri")


def test_a_command_line_that_is_kept_shows_none() -> None:
    assert without_passwords("--tracking-uri=postgresql://u:pw@h/d") == (
        "--tracking-uri=postgresql://u:***@h/d"
    )


@pytest.mark.parametrize("found", ["abc", "[1]", '{"x": 3}', "null"])
def test_what_is_no_password_in_the_environment_is_one_sentence(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store_uri.PASSWORDS, found)
    with pytest.raises(StoreError, match="is no JSON object of passwords by address; unset it"):
        whole("sqlite:///x.db")


def test_a_password_that_was_hidden_on_the_way_is_still_known() -> None:
    """A process that was told of it starts one with the address as it is shown."""
    clean = remembered("postgresql://lab:secret@db/mlflow", "--x")
    assert remembered("postgresql://lab:***@db/mlflow", "--x") == clean
    assert whole(clean) == "postgresql+psycopg://lab:secret@db/mlflow"


def test_an_empty_password_is_none() -> None:
    """`user:${PW}@` where PW is not set; every letter of a message was hidden."""
    clean = remembered("http://me:@host:5000", "--x")
    assert clean == whole(clean) == "http://me@host:5000"
    assert without_passwords("cannot reach it") == "cannot reach it"
