"""The same tiny sweep on this machine, Slurm and Ray gives the same table to the last digit."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from services import postgres, ray_cluster, script, slurm
from sweeping import SWEEP, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OTHER = {"tokens_per_second", "seconds", "commit", "dirty"}
SLURM = "launcher: {name: slurm, poll_s: 0.5, leave_s: 10}\ndefaults: {cpus: 1, memory_gb: 1, minutes: 30}\n"  # noqa: E501
PATIENCE_S = 600.0


def finish(lab: Lab, *options: str) -> str:
    command = lab.start(*options)
    out, err = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, out + err
    return out


def numbers(lab: Lab) -> list[dict[str, str]]:
    lines = csv.DictReader(io.StringIO(lab.report("runs.csv")))
    return [{key: line[key] for key in line if key not in OTHER} for line in lines]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("here"), SWEEP).with_store()
    finish(lab, "--workers", "2")
    return lab


def test_slurm(here: Lab, slurm: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP).with_store()
    lab.write("cluster.yaml", SLURM)
    finish(lab, "--resources", str(tmp_path / "cluster.yaml"))
    assert numbers(lab) == numbers(here)


def test_ray(here: Lab, ray_cluster: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP).with_store()
    address = (ray_cluster / "address").read_text().strip()
    lab.write("cluster.yaml", f'launcher: {{name: ray, address: "{address}"}}\n')
    finish(lab, "--resources", str(tmp_path / "cluster.yaml"))
    assert numbers(lab) == numbers(here)


def address_of(postgres: Path, database: str) -> tuple[str, str]:
    script("postgres.sh", "create", postgres, database)
    port, password = ((postgres / name).read_text().strip() for name in ("port", "password"))
    return f"postgresql://lab:{password}@127.0.0.1:{port}/{database}", password


def test_postgresql_and_no_password_anywhere(here: Lab, postgres: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP)
    tracking, password = address_of(postgres, "mlflow")
    study, _ = address_of(postgres, "optuna")
    out = finish(lab, "--workers", "2", "--tracking-uri", tracking, "--study-uri", study)
    assert numbers(lab) == numbers(here)
    assert password not in out
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in kept if password.encode() in path.read_bytes()] == []
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert all(record["mlflow"]["run_id"] for record in records)


OPENS = """if 1:
    import sys
    from pathlib import Path
    from hymba_lab.runs.tracking import Store
    print(Store(sys.argv[1], Path(sys.argv[2])).experiment("one"))
"""


def test_sixteen_processes_at_once_on_an_empty_database(postgres: Path, tmp_path: Path) -> None:
    uri, _ = address_of(postgres, "empty")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, uri, str(tmp_path)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(16)
    ]  # fmt: skip
    ended = [process.communicate(timeout=PATIENCE_S) for process in started]
    assert [process.returncode for process in started] == [0] * 16, ended
    assert len({out for out, _ in ended}) == 1
