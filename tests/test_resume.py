"""Checkpoints: a run that was interrupted equals one that was not; bad files are refused."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hymba_lab.checkpoints.weights import load_weights, save_weights
from hymba_lab.config import load_config
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.training import fit as fit_module
from hymba_lab.training.fit import FitResult, fit
from hymba_lab.training.random_state import random_state, restore_random_state, seed_all

OVERRIDES = ("training.tokens=1280", "training.val_every=6", "training.checkpoint_every=4")


def run(tiny: Path, name: str, *overrides: str, seed: int = 1, **arguments: Any) -> FitResult:
    config = load_config(tiny, [*OVERRIDES, *overrides])
    return fit(config, seed=seed, folder=tiny.parent / name, **arguments)


def content(folder: Path) -> tuple[bytes, Any]:
    """The weights file to the byte, and the optimizer's state."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    states = [checkpoint[key] for key in ("optimizer_states", "lr_schedulers", "state_dict")]
    return (folder / "weights.safetensors").read_bytes(), states


def assert_same_run(tiny: Path, whole: FitResult, pieces: FitResult) -> None:
    assert pieces.history == whole.history
    assert pieces.metrics == whole.metrics
    (a, states_a), (b, states_b) = content(tiny.parent / "whole"), content(tiny.parent / "pieces")
    assert a == b
    torch.testing.assert_close(states_a, states_b, rtol=0, atol=0)


@pytest.fixture
def dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model draw from the global generator in every training step."""

    def noisy(*arguments: Any) -> LanguageModel:
        model = build_model(*arguments)
        model.norm = nn.Sequential(model.norm, nn.Dropout(0.2))
        return model

    monkeypatch.setattr(fit_module, "build_model", noisy)


@pytest.mark.slow
@pytest.mark.usefixtures("dropout")
@pytest.mark.parametrize("stop_at", [6, 12, 18])
def test_a_stopped_run_continues_to_the_same_bits(tiny: Path, stop_at: int) -> None:
    whole = run(tiny, "whole", keep_checkpoint=True)
    first = run(tiny, "pieces", keep_checkpoint=True, stop=lambda step, metrics: step == stop_at)
    assert (first.stopped, first.n_steps) == (True, stop_at)
    torch.rand(3)  # another program in between
    second = run(tiny, "pieces", keep_checkpoint=True)
    assert (second.resumed_from, second.n_steps) == (stop_at, 20)
    assert second.seconds > first.seconds
    assert_same_run(tiny, whole, second)


@pytest.mark.slow
@pytest.mark.usefixtures("dropout")
def test_a_run_that_broke_between_validations_continues_to_the_same_bits(tiny: Path) -> None:
    every = "training.log_every=1"
    whole = run(tiny, "whole", every, keep_checkpoint=True)

    def trip(metrics: dict[str, float], step: int) -> None:
        if step == 11:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tiny, "pieces", every, log=trip)
    steps: set[int] = set()
    pieces = run(
        tiny, "pieces", every, keep_checkpoint=True, log=lambda metrics, step: steps.add(step)
    )
    assert pieces.resumed_from == 8  # a checkpoint every 4 steps
    assert steps == set(range(9, 21))
    assert_same_run(tiny, whole, pieces)


@pytest.mark.slow
def test_who_decides_about_stopping_is_told_the_validations_before_the_resume(tiny: Path) -> None:
    """Its decision rests on the whole curve, as that of the uninterrupted run does."""
    every = "training.log_every=1"

    class ThirdOne:
        """Ends a run at the third validation that it is told."""

        def __init__(self) -> None:
            self.told: list[tuple[int, dict[str, float]]] = []

        def __call__(self, step: int, metrics: dict[str, float]) -> bool:
            self.told.append((step, metrics))
            return len(self.told) == 3

    def trip(metrics: dict[str, float], step: int) -> None:
        if step == 14:
            raise ZeroDivisionError

    before, after = ThirdOne(), ThirdOne()
    whole = run(tiny, "whole", every, stop=before)
    with pytest.raises(ZeroDivisionError):
        run(tiny, "pieces", every, log=trip, stop=ThirdOne())
    pieces = run(tiny, "pieces", every, stop=after)
    assert (pieces.resumed_from, pieces.n_steps, pieces.stopped) == (12, 18, True)
    assert pieces.history == whole.history
    assert after.told == before.told and [step for step, _ in after.told] == [6, 12, 18]


@pytest.mark.slow
def test_a_stop_that_was_decided_and_not_obeyed_is_decided_again(tiny: Path) -> None:
    """A run killed behind the checkpoint of its last validation makes no step more."""

    def at_twelve(step: int, metrics: dict[str, float]) -> bool:
        return step == 12

    first = run(tiny, "run", keep_checkpoint=True, stop=at_twelve)
    again = run(tiny, "run", keep_checkpoint=True, stop=at_twelve)
    assert (again.resumed_from, again.n_steps, again.stopped) == (12, 12, True)
    assert again.history == first.history


@pytest.mark.slow
def test_a_run_killed_while_it_writes_a_checkpoint_continues_to_the_same_bits(tiny: Path) -> None:
    code = f"""
import os, pathlib, signal, torch
from hymba_lab.config import load_config
from hymba_lab.training.fit import fit
torch.set_num_threads(1)
real, calls = os.replace, []
def replace(*paths):
    calls.append(paths)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths)
os.replace = replace
folder = pathlib.Path({str(tiny.parent)!r})
fit(load_config(folder / "tiny.yaml", {OVERRIDES!r}), seed=1, folder=folder / "pieces")
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(os.listdir(tiny.parent / "pieces")) == ["last.ckpt", "last.ckpt.partial"]
    pieces = run(tiny, "pieces", keep_checkpoint=True)
    assert pieces.resumed_from == 6  # checkpoints after 4, 6 and, killed, 8 steps
    assert_same_run(tiny, run(tiny, "whole", keep_checkpoint=True), pieces)
    assert sorted(os.listdir(tiny.parent / "pieces")) == ["last.ckpt", "weights.safetensors"]


def test_a_finished_run_is_not_trained_again(tiny: Path) -> None:
    first = run(tiny, "run", keep_checkpoint=True)
    again = run(tiny, "run")
    assert (again.resumed_from, again.n_steps) == (20, 20)
    assert again.history == first.history
    assert again.tokens_per_second != again.tokens_per_second  # no step was timed
    assert not (tiny.parent / "run" / "last.ckpt").exists()


def test_what_cannot_change_a_result_may_change_in_between(tiny: Path) -> None:
    whole = run(tiny, "whole")
    run(tiny, "run", stop=lambda step, metrics: True, keep_checkpoint=True)
    resumed = run(tiny, "run", "training.log_every=3", "training.checkpoint_every=100")
    assert resumed.resumed_from == 6
    assert resumed.history == whole.history


# --- files that are not this run's checkpoint


@pytest.fixture
def saved(tiny: Path) -> Path:
    """The checkpoint of a stopped run."""
    run(tiny, "run", stop=lambda step, metrics: True, keep_checkpoint=True)
    return tiny.parent / "run" / "last.ckpt"


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:100], lambda data: data[:-10], flip, lambda data: b"no"],
    ids=["empty", "start", "truncated", "one bit", "other"],
)
def test_a_damaged_checkpoint_is_named_with_the_way_out(
    tiny: Path, saved: Path, damage: Callable[[bytes], bytes]
) -> None:
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: the checkpoint is damaged .*delete it"):
        run(tiny, "run")
    saved.unlink()
    assert run(tiny, "run").resumed_from == 0


def test_a_checkpoint_cannot_run_code(tiny: Path, saved: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "boom"),)

    torch.save({"state_dict": Bomb()}, saved)
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        run(tiny, "run")
    assert not (tmp_path / "boom").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["format", "digest", "seed", "data"])
def test_a_checkpoint_of_another_run_is_refused(tiny: Path, saved: Path, key: str) -> None:
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["hymba_lab"][key] = "other"
    torch.save(checkpoint, saved)
    with pytest.raises(CheckpointError, match=rf"belongs to another run: its {key} is other"):
        run(tiny, "run")


def test_another_seed_or_configuration_does_not_continue_a_run(tiny: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="its seed is 1, this run has 2"):
        run(tiny, "run", seed=2)
    with pytest.raises(CheckpointError, match="its digest is"):
        run(tiny, "run", "optimizer.lr=1.0e-3")


def test_a_file_of_another_program_is_refused(tiny: Path, saved: Path) -> None:
    torch.save({"state_dict": {}}, saved)
    with pytest.raises(CheckpointError, match="its format is None"):
        run(tiny, "run")
    torch.save([1, 2], saved)
    with pytest.raises(CheckpointError, match="not a checkpoint of a run"):
        run(tiny, "run")


# --- the pieces


def test_random_streams_continue_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(), float(np.random.normal()), torch.rand(()).item()]

    seed_all(5)
    draw()  # leaves half of a pair of normal draws behind
    state = random_state()
    following = [draw(), draw()]
    seed_all(6)
    restore_random_state(state)
    assert [draw(), draw()] == following


def test_weights_survive_the_file(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4).t(), "b": torch.arange(3)}
    save_weights(tmp_path / "w.safetensors", weights, {"seed": 1, "config": {"a": [1.5, None]}})
    read, facts = load_weights(tmp_path / "w.safetensors")
    assert facts == {"seed": 1, "config": {"a": [1.5, None]}}
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_unreadable_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_weights(tmp_path / "w.safetensors")
