"""Runs that begin with the weights of another: what they are, where they stand, what cannot be."""

import shutil
from pathlib import Path

import pytest
import torch

from hymba_lab.checkpoints.weights import load_weights
from hymba_lab.config import from_resolved, load_config
from hymba_lab.errors import CheckpointError, ConfigError, UserError
from hymba_lab.training.fit import FitResult, fit

SECOND = """\
extends: tiny.yaml
name: second
start_from: first
model: {attention: {name: softmax, rope_theta: 500000.0}}
training: {seq_len: 32, tokens: 640, val_every: 2}
"""


@pytest.fixture
def second(tiny: Path) -> Path:
    """An experiment of twice the length and another RoPE base, and the finished run it names."""
    fit(load_config(tiny), seed=0, folder=tiny.parent / "first")
    path = tiny.parent / "second.yaml"
    path.write_text(SECOND)
    return path


def run(file: Path, name: str, *overrides: str, tokens: int = 640) -> FitResult:
    config = load_config(file, [f"training.tokens={tokens}", *overrides])
    return fit(config, seed=0, folder=file.parent / name)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "weights.safetensors")[0]


def test_a_run_begins_with_the_weights_of_another(second: Path) -> None:
    """One step of almost no size leaves them where they were; without `start_from` it does not."""
    first = weights(second.parent / "first")
    run(second, "still", "optimizer.lr=1.0e-12", "schedule.lr_min=0.0", tokens=128)
    for name, tensor in weights(second.parent / "still").items():
        torch.testing.assert_close(tensor, first[name], rtol=0, atol=1e-9)
    second.write_text(SECOND.replace("start_from: first\n", ""))
    run(second, "fresh", "optimizer.lr=1.0e-12", "schedule.lr_min=0.0", tokens=128)
    assert not torch.equal(weights(second.parent / "fresh")["norm.weight"], first["norm.weight"])


@pytest.mark.slow
def test_an_interrupted_second_phase_goes_on_from_its_own_weights(second: Path) -> None:
    whole = run(second, "whole")
    config = load_config(second)
    pieces = second.parent / "pieces"
    fit(config, seed=0, folder=pieces, stop=lambda step, _: step >= 2, keep_checkpoint=True)
    shutil.rmtree(second.parent / "first")  # no longer needed
    again = from_resolved(config.resolved(), own=True)
    assert again.digest == config.digest
    assert fit(again, seed=0, folder=pieces).metrics == whole.metrics
    assert (pieces / "weights.safetensors").read_bytes() == (
        second.parent / "whole" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_run_is_told_apart_by_what_it_starts_from_and_not_by_where_that_is(
    second: Path, tmp_path: Path
) -> None:
    digest = load_config(second).digest
    shutil.copytree(second.parent / "first", tmp_path / "elsewhere" / "copy")
    assert load_config(second, [f"start_from={tmp_path / 'elsewhere' / 'copy'}"]).digest == digest
    run(second.parent / "tiny.yaml", "longer", tokens=1280)
    assert load_config(second, [f"start_from={second.parent / 'longer'}"]).digest != digest
    assert "start_weights" not in load_config(second.parent / "tiny.yaml").resolved()


BAD = {
    "nothing there": ("start_from=gone", r"--set #2 start_from=gone: start_from: .*is neither"),
    "no weights": ("start_from=.", "holds no weights; name a finished run"),
    "another content": ("start_weights=abc", "start_weights: abc was asked for, but .*first holds"),
    "another width": ("model.d_model=32", r"embedding.weight: 16 x 16 there, 16 x 32 here"),
    "another vocabulary": ("data.recall.vocab=18", r"embedding.weight: 16 x 16 there, 18 x 16"),
    "one layer more": ("model.n_layers=3", r"blocks.2.norm1.weight: none there, 16 here"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_what_it_cannot_start_from_is_one_message(
    case: str, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override, said = BAD[case]
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(UserError, match=said):
        run(second, "bad", override)
    assert not (second.parent / "bad" / "weights.safetensors").exists()


def test_weights_of_no_start_are_refused_at_their_line(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"start_weights: is the sha256 of start_from"):
        load_config(tiny, ["start_weights=abc"])


def test_a_start_that_was_deleted_is_said_before_training(second: Path) -> None:
    config = load_config(second)
    shutil.rmtree(second.parent / "first")
    with pytest.raises(ConfigError, match="first is no longer there"):
        fit(from_resolved(config.resolved(), own=True), seed=0, folder=second.parent / "new")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_weights(second.parent / "first" / "weights.safetensors")
