"""Files that are whole or not there, large ones too: without a copy of them in memory."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hymba_lab.atomic import write_bytes, written
from hymba_lab.checkpoints.weights import save_weights
from hymba_lab.errors import LeaseLost, TrialFailed
from hymba_lab.training.checkpoint import RunCheckpointIO

LIMIT = 100_000  # bytes that a file may have


def checkpoint(path: Path, n: int) -> None:
    RunCheckpointIO({"digest": "d"}).save_checkpoint({"state_dict": {"a": torch.zeros(n)}}, path)


def weights(path: Path, n: int) -> None:
    save_weights(path, {"a": torch.zeros(n)}, {})


def bytes_(path: Path, n: int) -> None:
    write_bytes(path, bytes(4 * n))


WRITERS = [checkpoint, weights, bytes_]


@pytest.fixture
def limited() -> Iterator[None]:
    """The system itself refuses files of more than LIMIT bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.usefixtures("limited")
def test_what_the_system_refuses_is_said_and_the_old_file_stays(
    write: Callable[[Path, int], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    write(path, 10)
    old = path.read_bytes()
    with pytest.raises(TrialFailed, match=r"file: cannot be written .*: File too large") as told:
        write(path, LIMIT)
    assert told.value.reason == "disk"
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [LeaseLost("gone"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_any_other_error_is_what_it_was_and_leaves_nothing(
    error: BaseException, tmp_path: Path
) -> None:
    def guard() -> None:
        raise error

    with pytest.raises(type(error)), written(tmp_path / "file", guard) as partial:
        partial.write_bytes(b"x")
    assert os.listdir(tmp_path) == []


MEASURED = """
import sys
from pathlib import Path
import torch
from test_atomic import checkpoint, weights
from hymba_lab.checkpoints.weights import load_weights, save_weights
from hymba_lab.training.checkpoint import RunCheckpointIO

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

folder, tensor = Path(sys.argv[1]), {"a": torch.ones(25_000_000)}
checkpoint(folder / "c", 10)
weights(folder / "w", 10)
load_weights(folder / "w")
before = peak()
RunCheckpointIO({"digest": "d"}).save_checkpoint({"state_dict": tensor}, folder / "c")
save_weights(folder / "w", tensor, {})
written = peak()
load_weights(folder / "w")
print(written - before, peak() - written)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, as on Linux")
def test_a_hundred_megabytes_are_written_without_a_copy_and_read_with_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(done.stdout)
    to_write, to_read = map(float, done.stdout.split())
    assert to_write < 20
    assert to_read < 220  # the tensor, and the pages of the file that the system may take back
