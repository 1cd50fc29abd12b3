"""Installed, not cloned: everything a user names travels with the wheel."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = [
    "training.tokens=10240", "training.val_every=5", "model.d_model=16", "trials_per_cell=1",
    "search={optimizer.lr: {choices: [1.0e-3]}}", "seeds=[0]", "match=null",
]  # fmt: skip

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist builds, without kernels: a compiler would take minutes."""
    out = tmp_path_factory.mktemp("dist")
    os.environ["CXX"] = os.environ["CC"] = "false"
    try:
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
        run(*build, str(ROOT), cwd=out)
    finally:
        del os.environ["CXX"], os.environ["CC"]
    assert list(out.glob("*.tar.gz"))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that has the wheel, and the packages it needs from here."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    run(str(home / "bin" / "pip"), "install", "--no-deps", "--quiet", str(wheel), cwd=home)
    site = next((home / "lib").glob("python*/site-packages"))
    here = [sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith("site-packages"))]
    (site / "packages.pth").write_text("\n".join(dict.fromkeys(here)) + "\n")
    return home / "bin"


def test_the_wheel_holds_what_is_named_without_a_path(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in ("experiments/nano.yaml", "sweeps/meta_tokens.yaml", "sweeps/scales/nano.yaml"):
        assert f"hymba_lab/shipped/{path}" in names
    assert any(name.startswith("hymba_lab/shipped/analysis/paper/") for name in names)
    assert not any("tests/" in name or name.endswith(".so") for name in names)


def test_a_laboratory_in_an_empty_folder(bin_: Path, tmp_path: Path) -> None:
    lab = str(bin_ / "hymba-lab")
    run(lab, "init", "my_lab", cwd=tmp_path)
    mine = tmp_path / "my_lab"
    found = run(str(bin_ / "python"), "-c", "import hymba_lab; print(hymba_lab.__file__)", cwd=mine)
    assert str(bin_.parent) in found
    settings = [part for text in TINY for part in ("--set", text)]
    run(lab, "sweep", "sweep.yaml", *settings, "--out", "results", cwd=mine)
    assert (mine / "results" / "sweep-nano" / "table.md").is_file()
    run(lab, "report", cwd=mine)
    run(lab, "claims", cwd=mine)
    assert (mine / "results" / "index.html").is_file()
    assert "scale nano" in run(lab, "sweep", "meta_tokens", "--plan", cwd=tmp_path)
