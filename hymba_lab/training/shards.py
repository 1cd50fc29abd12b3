"""Checkpoints in shards: every rank writes its part of the large tensors into a folder.

The checkpoint file itself stays what it is, one file with the identity of its run; in place of the
tensors it names the folder beside it and the sha256 of every file in it. It is written last and
moved into its place, so a kill at any moment leaves the old checkpoint or the new one, whole.
"""

import hashlib
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from hymba_lab.errors import CheckpointError, TrialFailed
from hymba_lab.training.world import agreed, gathered

SHARDS = "shards"
"""Key of a checkpoint whose tensors lie in shards: `{"folder": name, "sha256": {file: digest}}`."""


def split_off(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Write the sharded tensors beside `path`; return the checkpoint with their folder's name.

    All ranks must ask. Raises `TrialFailed("disk")` where the folder cannot be written.
    """
    path = Path(path)
    # a name of its own: a run that was lost and comes back must not touch its successor's
    token = agreed(secrets.token_hex(4))
    folder = path.with_name(f"{path.name}.{checkpoint['global_step']}.{token}")
    tensors = dict(_places(checkpoint))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about its own sets of processes
            save(tensors, storage_writer=FileSystemWriter(folder))
    except (OSError, CheckpointException) as error:
        raise TrialFailed(
            "disk",
            f"{folder}: a part of a checkpoint cannot be written: {_said(error)}; make room, "
            "then start again: the run continues from the last checkpoint that was written.",
        ) from error
    dist.barrier()
    rest = _without(checkpoint)
    return {**rest, SHARDS: {"folder": folder.name, "sha256": _digests(folder)}}


def _digests(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file; each rank reads a share of them, and all must ask."""
    files = sorted(folder.iterdir())[dist.get_rank() :: dist.get_world_size()]
    return dict(sorted(gathered([(file.name, _sha256(file)) for file in files])))


def _said(error: OSError | CheckpointException) -> str:
    """What the system said, on whichever rank: torch wraps it in a kind of its own.

    Raises what else was wrapped as a RuntimeError: torch's kind is no Exception, and none sees it.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first, _ = next(iter(error.failures.values()))
    if not isinstance(first, OSError):
        raise RuntimeError(f"no checkpoint was written: {first}") from error
    return first.strerror or str(first)


def joined(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint with the tensors of its shards in it, whole; raises `CheckpointError`."""
    if SHARDS not in checkpoint:
        return checkpoint
    entry = checkpoint[SHARDS]
    folder = path.with_name(entry["folder"])
    for name, digest in entry["sha256"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name}: a part of the checkpoint {path} is missing or damaged; delete "
                f"{path} and the run starts again from step 0."
            )
    reader = FileSystemReader(folder)
    known = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        load(tensors, storage_reader=reader, no_dist=True)
    whole = {key: value for key, value in checkpoint.items() if key != SHARDS}
    for name, tensor in tensors.items():
        _put(whole, name, tensor)
    return whole


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, its folders of shards with it."""
    path.unlink(missing_ok=True)
    remove_shards(path)


def remove_shards(path: Path, keep: str | None = None) -> None:
    """Delete the folders of shards beside a checkpoint file, but for the one named `keep`."""
    for folder in path.parent.glob(f"{path.name}.*"):
        if folder.is_dir() and folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _places(checkpoint: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every sharded tensor with a name that says where it belongs."""
    for key, value in checkpoint["state_dict"].items():
        if isinstance(value, DTensor):
            yield f"model/{key}", value
    for index, optimizer in enumerate(checkpoint.get("optimizer_states", [])):
        for number, state in optimizer["state"].items():
            for key, value in state.items():
                if isinstance(value, DTensor):
                    yield f"optimizer/{index}/{number}/{key}", value


def _without(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy without the sharded tensors."""

    def plain(state: dict[Any, Any]) -> dict[Any, Any]:
        return {k: v for k, v in state.items() if not isinstance(v, DTensor)}

    optimizers = [
        {**one, "state": {number: plain(state) for number, state in one["state"].items()}}
        for one in checkpoint.get("optimizer_states", [])
    ]
    model = plain(checkpoint["state_dict"])
    return {**checkpoint, "state_dict": model, "optimizer_states": optimizers}


def _put(checkpoint: dict[str, Any], name: str, tensor: Tensor) -> None:
    kind, _, rest = name.partition("/")
    if kind == "model":
        checkpoint["state_dict"][rest] = tensor
        return
    index, number, key = rest.split("/")
    checkpoint["optimizer_states"][int(index)]["state"][int(number)][key] = tensor


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
