"""A part of a checkpoint that cannot be written: one message, whatever torch wraps it in."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import CheckpointException

from hymba_lab.errors import TrialFailed
from hymba_lab.training import shards

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WRAPPED = CheckpointException("save", {1: (FULL, None)})  # no Exception: `except` of one is blind


def written(
    monkeypatch: pytest.MonkeyPatch, path: Path, error: BaseException | None
) -> dict[str, Any]:
    """Write a checkpoint without tensors, of which the parts end in this error."""

    def save(tensors: Any, storage_writer: Any) -> None:
        if error is not None:
            raise error
        Path(storage_writer.path).mkdir()
        (Path(storage_writer.path) / "__0_0.distcp").write_text("a part")

    monkeypatch.setattr(shards, "save", save)
    monkeypatch.setattr(shards.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(shards.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(shards.dist, "barrier", lambda: None)
    checkpoint = {"global_step": 3, "state_dict": {}, "optimizer_states": []}
    return shards.split_off(checkpoint, path / "last.ckpt")


def test_a_run_that_was_lost_and_comes_back_leaves_the_shards_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are at step 3; the checkpoint names the successor's folder."""
    first, second = (written(monkeypatch, tmp_path, None)[shards.SHARDS] for _ in range(2))
    assert first["folder"] != second["folder"]
    for entry in (first, second):
        assert entry["sha256"].keys() == {"__0_0.distcp"}
        assert (tmp_path / entry["folder"] / "__0_0.distcp").read_text() == "a part"


@pytest.mark.parametrize("error", [FULL, WRAPPED], ids=["plain", "wrapped"])
def test_a_full_disk_is_one_message(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        TrialFailed, match=r"last\.ckpt\.3\.\w+: .* cannot be written: No space"
    ) as told:
        written(monkeypatch, tmp_path, error)
    assert told.value.reason == "disk"


def test_what_else_torch_wraps_is_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CheckpointException("save", {0: (KeyError("no such tensor"), None)})
    with pytest.raises(RuntimeError, match="no checkpoint was written: 'no such tensor'"):
        written(monkeypatch, tmp_path, other)
