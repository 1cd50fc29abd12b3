"""The tensors of a checkpoint folder, whatever files they lie in, without a second copy of them.

Read: `model.safetensors`, `pytorch_model.bin`, or shards of either with their index; files are
mapped into memory, so that a tensor takes memory when it is first used, and only once. Written: one
`model.safetensors`, tensor after tensor.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hymba_lab.atomic import json_of
from hymba_lab.checkpoints.weights import check_readable
from hymba_lab.errors import CheckpointError

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
_ARCHIVE = b"PK\x03\x04"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}

Shape = tuple[int, ...]
Read = Callable[[torch.dtype | None], Tensor]


class Stored(NamedTuple):
    """A tensor in a file: `kind` is its precision in the words of safetensors, such as F32."""

    shape: Shape
    kind: str
    read: Read


class TensorFolder:
    """Tensors by name: `shapes`, and `read(name, dtype)`.

    `others` names those whose precision is none that models compute in, such as I8.

    Raises `CheckpointError` for a folder without tensors, damaged files and missing shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, Shape] = {}
        self.others: dict[str, str] = {}
        self._reads: dict[str, Read] = {}
        files, index = _files(folder)
        for file in files:
            found = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
            here = file.relative_to(folder).as_posix()
            for name, stored in found.items():
                if index is None or index.get(name) == here:
                    self.shapes[name], self._reads[name] = stored.shape, stored.read
                    if stored.kind not in _DTYPES.values():
                        self.others[name] = stored.kind
        if lost := sorted(set(index or {}) - set(self.shapes)):
            raise CheckpointError(
                f"{folder}: the index names tensors that their shards lack: {_listed(lost)}; "
                "copy the shards again."
            )

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor, mapped from its file, or converted to `dtype` where that differs."""
        try:
            return self._reads[name](dtype)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder}: {name} cannot be read: {error}.") from error


def write_safetensors(
    path: Path,
    shapes: Mapping[str, Tensor],
    tensors: Iterable[Tensor],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Write tensors in the order of `shapes`, which holds their shapes (meta tensors will do).

    One tensor at a time is in memory beside the model. The file is written beside its place and
    moved in, so that a model may be saved over the file that it is mapped from; `before` is called
    when it is whole, right before the move.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for name, tensor in shapes.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                file.write(
                    tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
                )
            file.flush()
            os.fsync(file.fileno())
        before()
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: {end / 1e6:.1f} MB cannot be written: {error.strerror}; make room or choose "
            "another folder."
        ) from error


def _files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files that hold the tensors and, with shards, which tensor is in which."""
    for name in (SAFETENSORS, PICKLED):
        if (single := folder / name).exists():
            return [single], None
        if (place := folder / f"{name}.index.json").exists():
            index = _index(place)
            shards = sorted(set(index.values()))
            files = [folder / shard for shard in shards]
            if missing := [shard for shard in shards if not (folder / shard).exists()]:
                raise CheckpointError(
                    f"{folder}: {place.name} names {len(files)} shards, missing are "
                    f"{_listed(missing)}; copy them into the folder."
                )
            return files, index
    raise CheckpointError(
        f"{folder}: no weights; expected {SAFETENSORS} or {PICKLED}, or one of them in shards with "
        "its index.json."
    )


def _index(path: Path) -> dict[str, str]:
    try:
        index = json_of(path)["weight_map"]
        inside = (PurePosixPath(shard) for shard in index.values())
        if all(not shard.is_absolute() and ".." not in shard.parts for shard in inside):
            return {name: PurePosixPath(shard).as_posix() for name, shard in index.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    raise CheckpointError(
        f"{path}: not an index of shards; expected {{weight_map: {{tensor: file}}}} with files of "
        "this folder."
    )


def _safetensors(path: Path) -> dict[str, Stored]:
    check_readable(path)
    try:
        file: Any = safe_open(path, framework="pt")
        found = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            read = _mapped(path, file, name)
            found[name] = Stored(tuple(part.get_shape()), part.get_dtype(), read)
        return found
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); copy it again."
        ) from error


def _mapped(path: Path, file: Any, name: str) -> Read:
    def read(dtype: torch.dtype | None) -> Tensor:
        if dtype is None or file.get_slice(name).get_dtype() == _DTYPES.get(dtype):
            tensor: Tensor = file.get_tensor(name)
            return tensor
        with safe_open(path, framework="pt") as again:  # its own mapping: gone after converting
            return again.get_tensor(name).to(dtype)  # type: ignore[no-any-return]

    return read


def _pickled(path: Path) -> dict[str, Stored]:
    """Tensors of a torch file; nothing else in it is unpickled.

    Files of torch before 1.6 are no archives and cannot be mapped: they are read into memory.
    """
    check_readable(path)
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # a damaged pickle raises anything
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a whole torch file of tensors ({said}); copy it again."
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: not a mapping from names to tensors.")
    return {
        name: Stored(
            tuple(tensor.shape),
            _DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")),
            _converted(tensor),
        )
        for name, tensor in content.items()
    }


def _converted(tensor: Tensor) -> Read:
    return lambda dtype: tensor if dtype is None else tensor.to(dtype)


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
