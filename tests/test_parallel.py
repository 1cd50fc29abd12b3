"""Two ranks (gloo) against one process: the same model, through kills and changes of their number.

Every run is a process of its own, `fit_run.py`; the model shares keys and values, ties its
embeddings and has meta tokens.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from sweeping import SWEEP, Lab
from test_micro_rows import MODEL, relative_error

from hymba_lab.checkpoints.weights import load_weights

pytestmark = pytest.mark.slow

PROGRAM = str(Path(__file__).with_name("fit_run.py"))
TWO = ["training.devices=2"]
SHARDED = [*TWO, "training.shard=true"]
IN_SHARDS = [*SHARDED, "training.shard_checkpoints=true"]
LONG = ["training.tokens=43200", "training.val_every=300"]  # 300 steps: time to kill


def start(
    file: Path, folder: Path, *overrides: str, stop_at: int | None = None
) -> "subprocess.Popen[str]":
    stop = {} if stop_at is None else {"STOP_AT": str(stop_at)}
    return subprocess.Popen(
        [sys.executable, PROGRAM, str(file), str(folder), *overrides], env={**os.environ, **stop},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(file: Path, folder: Path, *overrides: str, stop_at: int | None = None) -> dict[str, Any]:
    process = start(file, folder, *overrides, stop_at=stop_at)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "Warning" not in errors, errors
    said: dict[str, Any] = json.loads(out)
    return said


def underway(
    file: Path, folder: Path, *overrides: str, sign: str
) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """Start a long run and wait for the file `sign`; return its process and those of all ranks."""
    process = start(file, folder, *LONG, *overrides)
    while not (folder / sign).exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process, [psutil.Process(process.pid), *psutil.Process(process.pid).children()]


def killed(file: Path, folder: Path, *overrides: str, victim: int) -> None:
    """Kill a rank once a checkpoint is there; the others end by themselves."""
    process, ranks = underway(file, folder, *overrides, sign="last.ckpt")
    ranks[victim].kill()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not psutil.wait_procs(ranks, timeout=60)[1]
    assert not (folder / "weights.safetensors").exists()


def parts_of_checkpoint(folder: Path) -> int:
    """How many files of shards stand beside the checkpoint."""
    return len(list(folder.glob("last.ckpt.*/*.distcp")))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "weights.safetensors")[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel") / "parts.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def alone(file: Path) -> dict[str, Any]:
    """Twenty steps in one process."""
    return run(file, file.parent / "alone")


@pytest.fixture(scope="module")
def uninterrupted(file: Path) -> Callable[[list[str]], Path]:
    """The long run in one of the ways on two ranks, trained once."""

    def folder(ways: list[str]) -> Path:
        path = file.parent / f"long_{len(ways)}"
        if not path.exists():
            run(file, path, *LONG, *ways)
        return path

    return folder


@pytest.mark.parametrize(
    "ways",
    [TWO, [*TWO, "training.micro_rows=2"], SHARDED, [*SHARDED, "training.micro_rows=2"], IN_SHARDS],
    ids=["copies", "copies-in-parts", "shards", "shards-in-parts", "shards-saved-in-shards"],
)
def test_two_ranks_train_the_model_of_one_process(
    file: Path, tmp_path: Path, alone: dict[str, Any], ways: list[str]
) -> None:
    """In the way that was asked for: all of them would give the same numbers."""
    said = run(file, tmp_path / "run", *ways)
    shards = "training.shard=true" in ways
    assert said["strategy"] == ("Sharded" if shards else "DDPStrategy")
    assert said["n_shards"] == (said["n_parameters"] if shards else 0)
    assert said["n_parameters"] == alone["n_parameters"] > 0
    # every rank writes its part
    assert parts_of_checkpoint(tmp_path / "run") == (2 if ways == IN_SHARDS else 0)
    assert said["norms"] == pytest.approx(alone["norms"], rel=1e-5)  # of every step's gradient
    assert relative_error(weights(tmp_path / "run"), weights(file.parent / "alone")) < 1e-5
    assert said["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)


@pytest.mark.parametrize(
    ("ways", "victim"),
    [(TWO, 0), (TWO, 1), ([*IN_SHARDS, "training.tokens=14400"], 1)],
    ids=["the first", "another", "of shards"],
)
def test_a_killed_rank_ends_the_run_and_it_goes_on_as_if_uninterrupted(
    file: Path,
    tmp_path: Path,
    uninterrupted: Callable[[list[str]], Path],
    ways: list[str],
    victim: int,
) -> None:
    killed(file, tmp_path / "run", *ways, victim=victim)
    said = run(file, tmp_path / "run", *LONG, *ways)
    assert said["resumed_from"] > 0
    found, expected = weights(tmp_path / "run"), weights(uninterrupted(ways))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("ways", "asked"), [(IN_SHARDS, [0]), (TWO, [1, 0])], ids=["rank 0", "all"]
)  # fmt: skip
def test_a_run_that_is_asked_to_leave_saves_and_leaves_on_every_rank(
    file: Path, tmp_path: Path, ways: list[str], asked: list[int]
) -> None:
    """Slurm's warning and Ray reach rank 0 alone; torchrun and a terminal reach all.

    No checkpoint is due before the end: the one that is there was saved at the leaving.
    """
    never = "training.checkpoint_every=1000"
    process, ranks = underway(file, tmp_path / "run", *ways, never, sign="logged")
    assert not (tmp_path / "run" / "last.ckpt").exists()
    for rank in asked:
        ranks[rank].terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == int((tmp_path / "run" / "logged").read_text()) < 300
    assert parts_of_checkpoint(tmp_path / "run") == (2 if ways == IN_SHARDS else 0)


@pytest.mark.parametrize("before", [TWO, SHARDED, IN_SHARDS, []],
                         ids=["copies", "shards", "saved-in-shards", "one"])  # fmt: skip
def test_a_run_goes_on_with_another_number_of_ranks(
    file: Path, tmp_path: Path, alone: dict[str, Any], before: list[str]
) -> None:
    run(file, tmp_path / "run", *before, stop_at=10)
    assert parts_of_checkpoint(tmp_path / "run") == (2 if before == IN_SHARDS else 0)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "run", kept)
    for folder, after in ((tmp_path / "run", [] if before else TWO), (kept, SHARDED)):
        said = run(file, folder, *after)
        assert said["resumed_from"] == 10
        assert (said["n_shards"] > 0) == (after == SHARDED)
        assert relative_error(weights(folder), weights(file.parent / "alone")) < 1e-5
    assert not list((tmp_path / "run").glob("last.ckpt.*"))


def test_torchrun_starts_the_ranks(file: Path, tmp_path: Path, alone: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29541",
         PROGRAM, str(file), str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert relative_error(weights(tmp_path / "run"), weights(file.parent / "alone")) < 1e-5


def test_ranks_that_do_not_see_one_folder_do_not_train(file: Path, tmp_path: Path) -> None:
    """Copies that begin apart are never made equal again."""
    run(file, tmp_path / "run0", stop_at=10)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29543",
         PROGRAM, str(file), str(tmp_path / "run{rank}")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "ranks 0 to 1 begin at step 10, 0: they do not see the same files" in done.stderr


def test_rounded_weights_learn_what_exact_ones_learn(
    file: Path, tmp_path: Path, alone: dict[str, Any]
) -> None:
    said = run(file, tmp_path / "run", *TWO, "training.precision=bf16-true")
    exact = alone["metrics"]["val/loss"]
    assert said["metrics"]["val/loss"] == pytest.approx(exact, rel=0.02)
    # further away than two ranks are from one process in float32
    assert said["metrics"]["val/loss"] != pytest.approx(exact, rel=1e-5)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "run").values())


def test_a_trial_of_a_sweep_may_train_on_two_devices(tmp_path: Path) -> None:
    """The same table but for rounding, each trial a group of two processes."""
    found = {}
    for devices in ("1", "2"):
        lab = Lab(tmp_path / devices, SWEEP)
        lab.edit(seeds=[0])
        out, errors = lab.start("--set", f"training.devices={devices}").communicate(timeout=600)
        assert errors == "", (out, errors)
        records = [json.loads(p.read_text()) for p in lab.folder.glob("runs/*/result.json")]
        found[devices] = {
            record["identity"]: (record["metrics"]["val/loss"], record["n_steps"])
            for record in records
        }
    assert len(found["1"]) == 2
    assert found["2"] == {
        run: (pytest.approx(loss, rel=1e-5), n) for run, (loss, n) in found["1"].items()
    }
