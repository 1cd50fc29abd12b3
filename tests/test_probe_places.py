"""Where probes are written, of which runs, and what a kill leaves."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_probes import sweep_folder, trained

from hymba_lab.errors import StoreError, UserError
from hymba_lab.probes import runs, write
from hymba_lab.probes.__main__ import main
from hymba_lab.probes.whose import require_same
from hymba_lab.sweep.export import FILES

__all__ = ["trained"]  # a fixture


@pytest.mark.slow
def test_probes_of_an_export_stand_in_it(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of results/one_run/x were written over those of results/x."""
    monkeypatch.chdir(tmp_path)
    root, run = trained
    assert FILES[0] == runs._EXPORT
    export = tmp_path / "one_run" / "asked"
    shutil.copytree(sweep_folder(root, run, ["none"]), export)
    (export / FILES[0]).write_text("{}")
    assert main([str(export), "--root", str(root)]) == 0
    assert (export / "probes" / "erf.csv").is_file() and not (tmp_path / "results").exists()
    assert main([str(root / "runs/sweeps/asked"), "--root", str(root)]) == 0
    assert (tmp_path / "results/asked/probes/erf.csv").is_file()


def test_a_sweep_named_twice_is_probed_once(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    folder = sweep_folder(root, run, ["none"])
    other = tmp_path / "asked"
    shutil.copytree(folder, other)
    told = [str(folder), str(folder), str(other), "--root", str(root), "--out", str(tmp_path)]
    assert main(told) == 0
    assert len(pd.read_csv(tmp_path / "asked/probes/erf.csv")) == 1
    text = (other / "runs.csv").read_text()
    identity = json.loads((run / "result.json").read_text())["identity"]
    (other / "runs.csv").write_text(text.replace(identity, "0" * 64))
    with pytest.raises(UserError, match="asked: 'none', seed 0, is another run in another folder"):
        main(told)


def test_a_run_that_was_renamed_and_seeds_that_are_none_are_said(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    root, run = trained
    shutil.copytree(run, tmp_path / "copied")
    with pytest.raises(UserError, match="copied: a run's folder is called by its identity"):
        main([str(tmp_path / "copied")])
    folder = sweep_folder(root, run, ["none"], seed="0.0")
    with pytest.raises(UserError, match=r"not the runs of a sweep: .*'0\.0'"):
        main([str(folder), "--root", str(root)])


def test_probes_that_a_kill_left_unfinished_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run = trained
    folder = sweep_folder(root, run, ["none"])
    told = [str(folder), "--root", str(root), "--out", str(tmp_path)]
    assert main(told) == 0
    whole = pd.read_csv(folder / "runs.csv").to_dict("records")
    require_same(tmp_path / "asked", whole)

    def killed(path: Path, text: str) -> None:
        if path.name == "entropy.csv":
            raise KeyboardInterrupt
        path.write_text(text)

    monkeypatch.setattr(write, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        main(told)
    with pytest.raises(StoreError, match="the probes are unfinished; probe again"):
        require_same(tmp_path / "asked", whole)
