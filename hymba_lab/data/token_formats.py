"""Token files of every kind as stretches of ids, and what gives a wrong guess away.

| format | file |
|---|---|
| `header` | a shard of `hymba-lab tokenize`, known by its header |
| `npy` | a one-dimensional numpy array of integers, known by its suffix |
| `uint16`, `uint32` | bare ids, little-endian |
| `llm.c` | 256 int32 of header, then uint16 (version 1) or uint32 (version 7) |
"""

import os
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np

from hymba_lab.data.chain import Stretch
from hymba_lab.data.shard_file import HEADER_BYTES, MAGIC, read_header
from hymba_lab.errors import DataError

Format = Literal["uint16", "uint32", "llm.c"]

_LLM_C_BYTES = 1024
_LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""Magic number -> version and type, as `dataloader.h` of llm.c reads them."""


def stretch_of(path: Path, given: Format | None, vocab: int) -> Stretch:
    """Return where the ids of a file lie; `given` is the format the user named, if any.

    Raises DataError for a file that is not of the named format, or, where none is named, looks
    like another one than its suffix says.
    """
    try:
        if path.suffix == ".npy":
            return _npy(path, given)
        return _bin(path, given, vocab)
    except (OSError, ValueError, EOFError, TokenError) as error:  # numpy's own of a header
        raise DataError(f"{path}: not a readable token file: {error}") from error


def _bin(path: Path, given: Format | None, vocab: int) -> Stretch:
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        size = os.fstat(stream.fileno()).st_size
    found = _kind(head)
    if found == "header":
        return _own(path, given)
    if found == "llm.c" and given != "llm.c":
        named = f"not {given}" if given else "not plain uint16"
        raise DataError(f"{path}: begins with the header of llm.c, {named}; set format: llm.c")
    if given == "llm.c":
        return _llm_c(path, head, size)
    if given is None and vocab > 2**16:
        raise DataError(
            f"{path}: bare ids, read as uint16 where no format is named, and vocab {vocab:,} has "
            f"ids beyond {2**16 - 1:,}; set format: uint32, or format: uint16 if it is right"
        )
    if given is None and _looks_wide(head):
        raise DataError(
            f"{path}: every second uint16 is 0, as in a file of uint32; set format: uint32, or "
            "format: uint16 if it is right as it is"
        )
    item = np.dtype("<u4" if given == "uint32" else "<u2")
    if size == 0 or size % item.itemsize:
        raise ValueError(f"{size} bytes are no whole number of {given or 'uint16'} ids")
    return Stretch(path, 0, item.str, size // item.itemsize)


def _kind(head: bytes) -> str | None:
    if head.startswith(MAGIC):
        return "header"
    if len(head) < _LLM_C_BYTES:
        return None
    magic, version = np.frombuffer(head[:8], dtype="<i4").tolist()
    return "llm.c" if magic in _LLM_C and version == _LLM_C[magic][0] else None


def _looks_wide(head: bytes) -> bool:
    """Whether the first ids read as uint16 are those of a file of uint32 below 65,536."""
    ids = np.frombuffer(head[: len(head) // 4 * 4], dtype="<u2")
    return len(ids) >= 16 and not ids[1::2].any() and bool(ids[::2].any())


def _own(path: Path, given: Format | None) -> Stretch:
    header = read_header(path)
    assert header is not None
    if given is not None and given != header.dtype:
        raise DataError(f"{path}: a shard with a header, {header.dtype}, not {given}; leave it out")
    return Stretch(path, HEADER_BYTES, header.item.str, header.n_tokens)


def _llm_c(path: Path, head: bytes, size: int) -> Stretch:
    if _kind(head) != "llm.c":
        raise DataError(
            f"{path}: no header of llm.c (magic {', '.join(map(str, _LLM_C))} with its version); "
            "set format: uint16 or uint32 for bare ids"
        )
    magic, _, n_tokens = np.frombuffer(head[:12], dtype="<i4").tolist()
    item = np.dtype(_LLM_C[magic][1])
    if size != _LLM_C_BYTES + n_tokens * item.itemsize:
        raise DataError(
            f"{path}: {size:,} bytes, its header of llm.c says {n_tokens:,} tokens of {item.name}; "
            "it was cut or is damaged"
        )
    return Stretch(path, _LLM_C_BYTES, item.str, n_tokens)


def _npy(path: Path, given: Format | None) -> Stretch:
    ids = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(ids, np.ndarray):
        raise ValueError("an archive of arrays, not one array")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {ids.dtype} of shape {ids.shape}, one row of integers is expected"
        )
    if given is not None and given != ids.dtype.name:
        raise DataError(f"{path}: an .npy file of {ids.dtype.name}, not {given}; leave format out")
    if not len(ids):
        raise DataError(f"{path}: holds no tokens")
    if not isinstance(ids, np.memmap):
        raise ValueError("not an array on disk")
    return Stretch(path, int(ids.offset), ids.dtype.str, len(ids))
