"""`compose.yaml` as far as it can be known without starting it: flags, versions, names, ports."""

import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from conftest import ROOT

from hymba_lab.config.yaml_file import read_yaml


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(ROOT / "compose.yaml").data["services"]
    return found


def shell(service: dict[str, Any]) -> list[str]:
    """The words that `sh -c` runs, in order."""
    first, flag, text = shlex.split(service["command"])
    assert (first, flag) == ("sh", "-c")
    return shlex.split(text)


def test_what_is_installed_is_what_the_project_asks_for(services: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {*project["dependencies"], *project["optional-dependencies"]["postgres"]}
    for name in ("mlflow", "optuna"):
        words = shell(services[name])
        packages = [word for word in words[: words.index("&&")] if ">=" in word]
        assert packages and set(packages) <= asked, packages


@pytest.mark.slow
def test_the_server_of_mlflow_knows_its_options(services: dict[str, Any]) -> None:
    words = shell(services["mlflow"])
    given = words[words.index("server") + 1 :]
    code = "from mlflow.cli import server as s; print(*(o for one in s.params for o in one.opts))"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {word for word in given if word.startswith("--")} <= set(known.stdout.split())
    assert {"--serve-artifacts", "--artifacts-destination"} <= set(given)


def test_ports_databases_and_names_fit_each_other(services: dict[str, Any]) -> None:
    whole = read_yaml(ROOT / "compose.yaml").data
    database = services["db"]["environment"]
    made = {database["POSTGRES_DB"], *re.findall(r"DATABASE (\w+)", str(whole["configs"]))}
    for name in ("mlflow", "optuna"):
        service, words = services[name], shell(services[name])
        port = words[words.index("--port") + 1]
        assert service["ports"] == [f"{port}:{port}"]
        assert words[words.index("--host") + 1] == "0.0.0.0", "else nobody outside reaches it"
        (uri,) = [word for word in words if word.startswith("postgresql+psycopg://")]
        user, host, used = re.fullmatch(r"\S+//(\w+)@(\w+)/(\w+)", uri).groups()  # type: ignore[union-attr]
        assert (user, host) == (database["POSTGRES_USER"], "db")
        assert used in made
        assert service["depends_on"] == {"db": {"condition": "service_healthy"}}
        assert service["environment"]["PGPASSWORD"] == "${POSTGRES_PASSWORD}"
    assert database["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")  # refused without one
    volumes = [one.partition(":")[0] for s in services.values() for one in s.get("volumes", ())]
    assert set(volumes) == set(whole["volumes"])
    page = (ROOT / "docs" / "clusters.md").read_text()
    assert "--tracking-uri http://server:5000" in page and services["mlflow"]["ports"] == [
        "5000:5000"
    ]
