"""Tokens of several files as one long row, read where they lie."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hymba_lab.data.draws import Ints
from hymba_lab.errors import DataError

MOST_OPEN = 128
"""Files held open at once: many shards must not use up what a process may open."""


class Tokens(Protocol):
    """A row of tokens on disk."""

    def __len__(self) -> int: ...

    def windows(self, starts: Ints, length: int) -> Ints:
        """Return (len(starts), length) tokens."""
        ...


class Stretch(NamedTuple):
    """Where some tokens lie: `n_tokens` ids of type `dtype` from byte `offset` of a file on."""

    path: Path
    offset: int
    dtype: str
    n_tokens: int


class TokenChain:
    """Stretches one after another. Pickles as their names, so that workers share the disk's pages.

    It reads by place instead of mapping: a file that shrinks under a run is an error here, where
    a mapping would end the process.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = list(stretches)
        self._ends = np.cumsum([part.n_tokens for part in self.stretches], dtype=np.int64)
        self._open: OrderedDict[int, int] = OrderedDict()  # stretch -> file descriptor
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["TokenChain"], tuple[list[Stretch]]]:
        return type(self), (self.stretches,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.stretches else 0

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def windows(self, starts: Ints, length: int) -> Ints:
        """Return (len(starts), length) tokens; a window may reach over several files."""
        windows = np.empty((len(starts), length), dtype=np.int64)
        numbers = np.searchsorted(self._ends, starts, side="right")
        for row, (start, number) in enumerate(zip(starts.tolist(), numbers.tolist(), strict=True)):
            done = 0
            while done < length:
                part = self.stretches[number]
                at = start + done - (int(self._ends[number]) - part.n_tokens)
                n = min(length - done, part.n_tokens - at)
                windows[row, done : done + n] = self._read(number, at, n)
                done, number = done + n, number + 1
        return windows

    def _read(self, number: int, at: int, n: int) -> np.ndarray:
        part = self.stretches[number]
        item = np.dtype(part.dtype)
        try:
            with self._lock:
                content = os.pread(
                    self._descriptor(number), n * item.itemsize, part.offset + at * item.itemsize
                )
        except OSError as error:
            raise DataError(f"{part.path}: cannot be read: {error.strerror or error}") from error
        if len(content) < n * item.itemsize:
            raise DataError(f"{part.path}: became shorter while it was in use; make it again")
        return np.frombuffer(content, dtype=item)

    def _descriptor(self, number: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        descriptor = self._open[number] = os.open(self.stretches[number].path, os.O_RDONLY)
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor
