"""Addresses of stores: a password is never shown, a driver is filled in or asked for."""

import os
from importlib import util

import pytest

from hymba_lab.errors import StoreError
from hymba_lab.runs import store_uri
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
