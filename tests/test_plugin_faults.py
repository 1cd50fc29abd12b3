"""A plugin that fails is said in one message by every command, with its line where it has one."""

from pathlib import Path

import pytest
from conftest import TINY, Write

from hymba_lab import cli
from hymba_lab.commands import inspect
from hymba_lab.config import load_config
from hymba_lab.cost import measure_costs
from hymba_lab.errors import ConfigError
from hymba_lab.training.single import train

FUSION = """\
import torch
from torch import nn

from hymba_lab.components.fusion import fusions


@fusions.register("mine")
class Mine(nn.Module):
    '''y = W (a + s).'''

    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()
        self.out = nn.Linear(d_attn, d_model)

    def forward(self, a, s):
        return self.out(a + s)
"""
SSM = """\
from torch import nn

from hymba_lab.components.ssm import ssms


@ssms.register("mine")
class Mine(nn.Module):
    '''y = W x.'''

    def __init__(self, d_model, d_inner):
        super().__init__()
        self.out = nn.Linear(d_model, d_inner)

    def forward(self, x):
        return self.out(x)
"""
FAULTS = {
    "raises in forward": (FUSION, "return self.out(a + s)", "return 1 / 0",
                          "Mine.forward raised ZeroDivisionError", "mine.py:16"),
    "returns nothing": (FUSION, "return self.out", "self.out",
                        "Mine.forward returned None; (B, T, 16) is needed", ""),
    "a wrong width": (FUSION, "nn.Linear(d_attn, d_model)", "nn.Linear(d_attn, 5)",
                      "Mine.forward returned a tensor [1, 4, 5]; (B, T, 16) is needed", ""),
    "a wrong signature": (FUSION, "(self, d_attn, d_ssm, d_model)", "(self, d_attn)",
                          "Mine, given 32, 32, 16, raised TypeError", ""),
    "no super().__init__()": (FUSION, "        super().__init__()\n", "",
                              "before Module.__init__", "mine.py:12"),
    "an attribute that is not there": (FUSION, "self.out(a + s)", "self.other(a + s)",
                                       "AttributeError", "mine.py:16"),
    "no past": (SSM, "nothing", "", "Mine.forward raised TypeError", ""),
    "exits when built": (FUSION, "super().__init__()", "super().__init__(); exit(0)",
                         "raised SystemExit", "mine.py:12"),
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("no_plugin_stays")


def experiment(write: Write, source: str) -> Path:
    write("mine.py", source)
    axis = "ssm: {name: mamba1, d_state: 4}" if "ssms" in source else "fusion: {name: mean}"
    used = axis.split(":")[0] + ": {name: mine}"
    return write("mine.yaml", "plugins: [mine.py]\n" + TINY.replace(axis, used))


@pytest.mark.parametrize("what", FAULTS)
def test_a_component_that_fails_is_named(write: Write, what: str) -> None:
    source, good, bad, said, line = FAULTS[what]
    config = load_config(experiment(write, source.replace(good, bad)))
    with pytest.raises(ConfigError) as caught:
        measure_costs(config.model, 16, 16)
    assert said in str(caught.value) and line in str(caught.value)
    assert caught.value.path in ("model.fusion", "model.ssm")
    place = str(config.blame(caught.value))
    assert "mine.yaml:" in place, "the line of the experiment stands in front"


@pytest.mark.parametrize("command", ["train", "inspect"])
@pytest.mark.parametrize("what", ["raises in forward", "returns nothing", "a wrong signature"])
def test_train_and_inspect_say_it(
    write: Write, what: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hymba_lab.commands import train

    source, good, bad, said, _ = FAULTS[what]
    path = experiment(write, source.replace(good, bad))
    root = ["--root", str(tmp_path)] if command == "train" else []
    main = {"train": train.main, "inspect": inspect.main}[command]
    with pytest.raises(ConfigError) as caught:
        main([str(path), *root])
    assert said in str(caught.value) and "mine.yaml:" in str(caught.value)


LATE = FUSION.replace(
    "        return self.out(a + s)",
    "        if not a.is_meta:\n            raise ValueError('not on a Monday')\n"
    "        return self.out(a + s)",
)
EXITS = LATE.replace("raise ValueError('not on a Monday')", "exit(0)")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LATE, "mine.py:17: ValueError: not on a Monday"),
        (EXITS, "mine.py:17: SystemExit: 0"),
        ("import sys\nsys.exit(0)\n" + FUSION, "mine.py:2: SystemExit: 0"),
    ],
    ids=["fails in training", "exits in training", "exits when imported"],
)
def test_no_command_ends_as_if_all_were_well(
    write: Write, source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hymba_lab.commands import train

    path = experiment(write, source)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: train.main([str(path), "--root", str(tmp_path)]))
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


def test_an_error_of_the_package_keeps_its_traceback() -> None:
    def main(argv: object) -> int:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        cli.run(main)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule={name: wsd, lr_min: 1.0}", r"tiny\.yaml:\d+:\d+.*lr_min 1 is above"),
        ("training.tokens=1", r"pays for no step"),
    ],
)
def test_what_cannot_be_trained_is_said_at_its_line_before_a_run_is_opened(
    override: str, said: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(tiny, root=tmp_path, overrides=[override])
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "runs").exists()
