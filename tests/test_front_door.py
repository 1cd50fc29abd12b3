"""One door to every command, functions behind it, and shipped files by name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweeping import Lab

import hymba_lab as lab_module
from hymba_lab.__main__ import COMMANDS, every_parser, listing, main
from hymba_lab.config import load_config
from hymba_lab.config.shipped import shipped
from hymba_lab.errors import ConfigError, UserError

NAMES = [name for group in COMMANDS.values() for name in group]
OLD_DOORS = [
    "sweep",
    "probes",
    "claims",
    "report",
    "train",
    "inspect",
    "generate",
    "bench",
    "doctor",
]


def python(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_imports_no_torch(name: str) -> None:
    code = (
        "import sys\nfrom hymba_lab.__main__ import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'pandas', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize("name", OLD_DOORS)
def test_a_command_is_a_module_as_well(name: str) -> None:
    done = python("-m", f"hymba_lab.{name}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


def test_the_door_lists_every_command_and_completes_it() -> None:
    assert all(f"  {name} " in listing() for name in NAMES)
    assert set(NAMES) <= set(every_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained_within_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = every_parser()._subparsers._group_actions[0].choices[name]  # type: ignore[union-attr,index]
    assert [action.dest for action in parser._actions if not action.help] == []
    assert max(map(len, parser.format_help().splitlines())) <= 80


def test_a_command_that_is_none_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no command 'sweeps'; choose one of .*'sweep'\?"):
        main(["sweeps"])
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: hymba-lab COMMAND")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion_knows_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell in listing().splitlines()[-1]
    assert main(["--print-completion", shell]) == 0
    assert "sweep" in capsys.readouterr().out


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, hymba_lab as lab; lab.sweep; lab.report; sys.exit('torch' in sys.modules)"
    assert python("-c", code).returncode == 0


@pytest.mark.slow
def test_a_sweep_is_a_function_that_returns_its_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeping import Inline

    from hymba_lab.sweep import run

    monkeypatch.setattr(run, "make_launcher", Inline)  # no process of its own for four short runs
    lab = Lab(tmp_path).with_store()

    given = ["training.tokens=640"]
    report = lab_module.sweep(lab.folder / "sweep.yaml", root=lab.folder, overrides=given)
    assert list(report.verdicts["row"]) == ["mean", "gate"]
    assert report.verdicts["verdict"][0] == "baseline"
    plan = lab_module.plan(lab.folder / "sweep.yaml", root=lab.folder)
    assert any("4 finished" in note for note in plan.notes)
    record = json.loads(next(lab.folder.glob("runs/*/result.json")).read_text())
    trained = lab_module.train(lab.folder / "tiny.yaml", record["seed"], root=lab.folder)
    assert trained.metrics.keys() == record["metrics"].keys()
    export = json.loads((lab.folder / "runs/sweeps/sweep-tiny/export.json").read_text())
    file = str(lab.folder / "sweep.yaml")
    assert export["command"] == f"hymba_lab.sweep({file!r}, overrides={given!r})"


def test_shipped_files_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped("meta_tokens", "sweeps").is_file()
    (tmp_path / "meta_tokens").mkdir()
    assert shipped("meta_tokens", "sweeps") == Path("meta_tokens"), "one's own comes first"
    assert shipped("hymba_lab:meta_tokens", "sweeps").is_file(), "the package's, as in `base:`"
    with pytest.raises(ConfigError, match="one of the shipped sweeps; choose one of"):
        shipped("meta_tokenz", "sweeps")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: hymba_lab:nano\nname: mine\n")
    assert (
        load_config(mine).model.d_model == load_config(shipped("nano", "experiments")).model.d_model
    )


def test_the_starter_plans_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my_lab"
    assert main(["init", str(folder)]) == 0
    monkeypatch.chdir(folder)
    assert main(["sweep", "sweep.yaml", "--plan"]) == 0
    said = "About 12 runs: in each of 2 rows 2 values race over 3 seeds, 0 finished."
    assert said in capsys.readouterr().out
    next_ = (folder / "NEXT.md").read_text()
    metric, stop = re.findall(r"`((?:metric|stop): \{.*\})`", next_)
    text = re.sub("metric: .*", metric, (folder / "sweep.yaml").read_text())
    (folder / "solve.yaml").write_text(re.sub("behind: .*", stop, text))
    assert main(["sweep", "solve.yaml", "--plan"]) == 0  # as NEXT.md says it
    with pytest.raises(UserError, match="is not empty"):
        main(["init", str(folder)])
