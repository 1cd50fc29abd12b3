"""Real Slurm, Ray and PostgreSQL for the tests, each started by its script and stopped by it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def script(name: str, *words: str | Path, timeout_s: float = 240) -> str:
    """Run one of the scripts here; its output goes to files, for daemons keep pipes open."""
    said = Path(str(words[1])).with_suffix(".said")
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("a") as file:
        done = subprocess.run(
            ["bash", str(HERE / name), *map(str, words)], stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, timeout=timeout_s, env={**os.environ, "PYTHON": sys.executable},
        )  # fmt: skip
    text = said.read_text()
    assert done.returncode == 0, text
    return text


def need_slurm() -> None:
    """Skip where Slurm or the right to start it is missing."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmctld and slurmd are started as root here")


def need_postgres() -> None:
    """Skip where PostgreSQL is missing."""
    if shutil.which("initdb") is None and not list(Path("/usr/lib/postgresql").glob("*/bin")):
        pytest.skip("no PostgreSQL: apt-get install postgresql")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two nodes, n1 and n2; SLURM_CONF is set for whoever asks Slurm."""
    need_slurm()
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            script("slurm.sh", "start", folder)
            yield folder
        finally:
            script("slurm.sh", "stop", folder)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Path]:
    """Two raylets; the folder is short, for sockets have short names."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        script("ray.sh", "start", folder)
        yield folder
    finally:
        script("ray.sh", "stop", folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A PostgreSQL in a folder that its own user may enter."""
    need_postgres()
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    try:
        script("postgres.sh", "start", folder)
        yield folder
    finally:
        script("postgres.sh", "stop", folder)
