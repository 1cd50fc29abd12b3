"""The weights that a run starts from: a path to whoever opens them, a sha256 in its identity."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hymba_lab.config.yaml_file import Document

_KINDS = ("*.safetensors", "*.bin")
RUN_WEIGHTS = "weights.safetensors"  # of a finished run, in its folder


class Start(NamedTuple):
    """Where the weights are (None: no longer there), relative to which folder, and their sha256."""

    path: Path | None
    folder: str
    sha256: str


def start_of(written: str, told: str | None, document: Document, known: str | None) -> Start:
    """Return the start of a configuration; `told` is the sha256 that the weights must have.

    `known` is the folder that a document written by the program says the path is relative to. A run
    whose first weights are gone keeps what it was told. Raises `ConfigError` with its place.
    """
    folder = str(document.folder(["start_from"]) or known or Path.cwd())
    path = Path(folder) / Path(os.path.expanduser(written))
    if not path.exists():
        if told:
            return Start(None, folder, told)
        said = f"{path} is neither a run (runs/<identity>) nor a folder with weights."
        raise document.wrong(["start_from"], said)
    files = weight_files(path)
    if not files:
        said = f"{path} holds no weights; name a finished run, or a folder with *.safetensors."
        raise document.wrong(["start_from"], said)
    sha256 = weights_digest(path)
    if told not in (None, sha256):
        said = f"{told} was asked for, but {path} holds {sha256}; the weights were changed."
        raise document.wrong(["start_weights"], said)
    return Start(path, folder, sha256)


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights, in the order of their names."""
    if path.is_file():
        return [path]
    if (path / RUN_WEIGHTS).is_file():
        return [path / RUN_WEIGHTS]
    return sorted(file for kind in _KINDS for file in path.rglob(kind))


def weights_digest(path: Path) -> str:
    """Return the sha256 over a checkpoint's weight files, whatever their folder is called."""
    digest = hashlib.sha256()
    for file in weight_files(path):
        digest.update(file_digest(file))
    return digest.hexdigest()


def file_digest(file: Path) -> bytes:
    """Return the sha256 of a file; one that the file system calls unchanged is not read again."""
    seen = file.stat()
    return _file_digest(file, seen.st_ino, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_digest(file: Path, *_seen: int) -> bytes:
    """The sha256 of a file, kept as long as the file system calls it unchanged."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
