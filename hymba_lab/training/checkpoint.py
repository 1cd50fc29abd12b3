"""The checkpoint of a run under way (`last.ckpt`).

It is written atomically, so that a kill at any moment leaves the old file or the new one, whole.
Reading checks every byte against its checksum and unpickles nothing but tensors and plain values.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from hymba_lab.atomic import Guard, written
from hymba_lab.checkpoints.weights import FORMAT, HEADER
from hymba_lab.errors import CheckpointError
from hymba_lab.training.shards import SHARDS, joined, remove_checkpoint, remove_shards

_PARTS = {"state_dict": dict, "loops": dict, "callbacks": dict, "optimizer_states": list}


class RunCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dict, with the identity of the run it belongs to."""

    def __init__(self, identity: Mapping[str, str | int], guard: Guard | None = None) -> None:
        """`identity` must be equal for a run to continue: configuration's digest, seed, data.

        `guard()` raises where this process may not write the run any more.
        """
        self._header, self._guard = {"format": FORMAT, **identity}, guard

    def require(self) -> None:
        """Raise where this process may not write the run any more."""
        if self._guard is not None:
            self._guard()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint; raises `TrialFailed("disk")` when that is impossible."""
        with written(Path(path), self._guard) as partial, partial.open("wb") as file:
            torch.save(checkpoint | {HEADER: self._header}, file)
        remove_shards(Path(path), keep=checkpoint.get(SHARDS, {}).get("folder"))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint of this run; raises `CheckpointError` for any other file."""
        path = Path(path)
        checkpoint = _read(path, map_location)
        header = checkpoint.get(HEADER)
        header = header if isinstance(header, dict) else {}
        for key, ours in self._header.items():
            if header.get(key) != ours:
                raise CheckpointError(
                    f"{path}: belongs to another run: its {key} is {_short(header.get(key))}, this "
                    f"run has {_short(ours)}; use another folder, or delete the file to start over."
                )
        return _whole(joined(checkpoint, path), path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file, and its shards, if they are there."""
        remove_checkpoint(Path(path))


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load itself does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, so it is not read; delete it and "
            "the run starts again from step 0."
        ) from error
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({str(error).splitlines()[0]}); delete it and the "
            "run starts again from step 0."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a checkpoint of a run; delete it to start from step 0.")
    return content


def _whole(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint that holds what a run continues from; without a part it would go wrong.

    A missing `loops`, e.g., would start the count of steps anew and train another run in silence.
    """
    for part, kind in _PARTS.items():
        if not isinstance(checkpoint.get(part), kind):
            raise CheckpointError(
                f"{path}: the checkpoint lacks {part}; delete it and the run starts again from "
                "step 0."
            )
    return checkpoint


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
