"""What was downloaded never brings its own code along: a test for every command that loads it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, Write, forget_all_but, registered

from hymba_lab.checkpoints.load import load
from hymba_lab.checkpoints.weights import save_weights
from hymba_lab.commands import generate
from hymba_lab.config import Config, all_registries, from_resolved, load_config, plugins
from hymba_lab.config.trust import known
from hymba_lab.errors import CheckpointError, ConfigError
from hymba_lab.model import build_model
from hymba_lab.probes.__main__ import main as probes
from hymba_lab.runs.folder import run_identity
from hymba_lab.runs.provenance import CODE_VERSION

PLUGIN = """\
from pathlib import Path

from torch import nn

from hymba_lab.components.fusion import fusions

Path(__file__).with_name("it_ran").touch()


@fusions.register("stranger")
class Stranger(nn.Module):
    '''y = W (a + s).'''

    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()
        self.out = nn.Linear(d_attn, d_model)

    def forward(self, a, s):
        return self.out(a + s)
"""


@pytest.fixture(autouse=True)
def _nothing_ran(no_plugin_stays: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No plugin has run yet, on this machine or in this process."""
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder as somebody else would send it, with its plugin inside."""
    before = registered()
    plugin = write("their/stranger.py", PLUGIN)
    text = "plugins: [stranger.py]\n" + TINY.replace("{name: mean}", "{name: stranger}")
    config = load_config(write("their/experiment.yaml", text))
    folder = _finish(tmp_path / "their" / "runs", config)
    # here it never ran
    forget_all_but(before)
    plugins._loaded.clear()
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "mine"))
    plugin.with_name("it_ran").unlink()
    return folder


def _finish(runs: Path, config: Config) -> Path:
    from hymba_lab.data.source import build_sources

    mixture = build_sources(config.data, config.training.seq_len)
    identity = run_identity(config, 0, mixture.fingerprint)
    folder = runs / identity[:20]
    torch.manual_seed(0)
    model = build_model(config.model, mixture.vocab)
    facts = {"config": config.resolved(), "vocab": mixture.vocab}
    folder.mkdir(parents=True)
    save_weights(folder / "weights.safetensors", model.state_dict(), facts)
    record = {
        "seed": 0, "metrics": {"val/loss": 1.0}, "stopped_by": None, "config": config.resolved(),
        "data_fingerprint": mixture.fingerprint, "scale": "tiny", "history": [],
        "identity": identity, "format": 1, "code_version": CODE_VERSION,
        "digest": config.digest, "n_steps": 1, "seconds": 1.0, "tokens": 640,
        "tokens_per_second": 640.0,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def ran(run: Path) -> bool:
    return (run.parents[1] / "it_ran").exists()


def generating(run: Path, *more: str) -> int:
    return generate.main([str(run), "--ids", "1 2", "--max-new-tokens", "2", *more])


def probing(run: Path, *more: str) -> int:
    out = ["--out", str(run.parent / "out"), "--root", str(run.parents[1])]
    return probes([str(run), *out, *more])


COMMANDS = {"generate": generating, "probes": probing}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stranger_is_refused_before_it_runs(command: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"stranger\.py: code that would be run.*--plugin"):
        COMMANDS[command](run)
    assert not ran(run)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plugin_that_the_user_names_runs(command: str, run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(PLUGIN)
    assert COMMANDS[command](run, "--plugin", str(mine)) == 0
    assert not ran(run) and (tmp_path / "it_ran").exists(), "theirs is not run, mine is"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plugin_of_the_users_own_experiment_runs(command: str, run: Path, write: Write) -> None:
    """By its content, wherever it stands; in a later process, too."""
    write("own/stranger.py", PLUGIN)
    text = "plugins: [stranger.py]\n" + TINY.replace("{name: mean}", "{name: stranger}")
    load_config(write("own/experiment.yaml", text))
    plugins._forget(plugins._loaded.popitem()[1][1])  # as in another process
    assert COMMANDS[command](run) == 0


def test_an_edited_plugin_is_a_stranger_again(run: Path, write: Write) -> None:
    test_a_plugin_of_the_users_own_experiment_runs("generate", run, write)
    plugins._forget(plugins._loaded.popitem()[1][1])
    path = run.parents[1] / "stranger.py"
    path.write_text(PLUGIN + "# and something else\n")
    with pytest.raises(ConfigError, match="Nothing was run"):
        generating(run)


def test_a_plugin_that_is_not_here_asks_for_ones_own(run: Path) -> None:
    (run.parents[1] / "stranger.py").unlink()
    with pytest.raises(ConfigError, match=r"which is not here.*--plugin stranger\.py"):
        load(run, None, texts=False)


def test_the_loaders_of_the_library_refuse_as_the_commands_do(run: Path) -> None:
    resolved = json.loads((run / "result.json").read_text())["config"]
    with pytest.raises(ConfigError, match="Nothing was run"):
        from_resolved(resolved)
    with pytest.raises(ConfigError, match="Nothing was run"):
        load(run, None, texts=False)
    assert not ran(run)
    assert from_resolved(resolved, own=True).model.fusion.name == "stranger" and ran(run)


def test_transformers_folders_are_refused_too(run: Path) -> None:
    pytest.importorskip("transformers")
    from hymba_lab.hf.config import HymbaLabConfig

    resolved = json.loads((run / "result.json").read_text())["config"]
    with pytest.raises(ConfigError, match="Nothing was run"):
        HymbaLabConfig(vocab_size=16, lab=resolved).build()
    assert not ran(run)


def test_fine_tuning_takes_the_plugin_that_its_message_asks_for(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from hymba_lab.finetune.start import Start

    resolved = json.loads((run / "result.json").read_text())["config"]
    folder, mine = tmp_path / "folder", tmp_path / "stranger.py"
    folder.mkdir()
    content = {"model_type": "hymba_lab", "vocab_size": 16, "lab": resolved}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="--plugin"):
        Start(folder)
    assert not ran(run)
    mine.write_text(PLUGIN)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Start(folder, [mine])  # the plugin was taken
    assert (tmp_path / "it_ran").exists() and not ran(run)


def test_a_sweep_that_lists_the_run_is_probed_by_the_same_rule(run: Path) -> None:
    sweep = run.parents[1] / "sweep"
    sweep.mkdir()
    line = f"row,seed,identity,status\nmine,0,{run.name},finished\n"
    (sweep / "runs.csv").write_text(line)
    with pytest.raises(ConfigError, match="Nothing was run"):
        probes([str(sweep), "--root", str(run.parents[1]), "--out", str(run.parent / "out")])
    assert not ran(run)


def test_what_ran_is_remembered_by_its_content(write: Write) -> None:
    path = write("own.py", PLUGIN)
    text = "plugins: [own.py]\n" + TINY.replace("{name: mean}", "{name: stranger}")
    load_config(write("own.yaml", text))
    sha256 = plugins.load_plugin(path, list(all_registries().values()))
    assert known(sha256) and not known("0" * 64)


def test_without_a_place_to_remember_all_else_works(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYMBA_LAB_CACHE", str(tmp_path / "file"))
    write("own.py", PLUGIN)
    text = "plugins: [own.py]\n" + TINY.replace("{name: mean}", "{name: stranger}")
    assert load_config(write("own.yaml", text)).model.fusion.name == "stranger"


@pytest.mark.slow
def test_the_command_says_it_in_one_message(run: Path, tmp_path: Path) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "hymba_lab.generate", str(run), "--ids", "1"],
        env=os.environ | {"HYMBA_LAB_CACHE": str(tmp_path / "nobody")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "Nothing was run" in done.stderr
