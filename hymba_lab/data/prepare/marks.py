"""What a document is known by: a hash of its text decides its part and finds its copies."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hymba_lab.data.prepare.documents import documents
from hymba_lab.data.prepare.inputs import Unit
from hymba_lab.data.prepare.schema import TokenizeConfig

MARK_BYTES = 16

_AT_ONCE = 4_000_000
"""Marks compared at a time: about 200 MB of memory."""

Mask = npt.NDArray[np.bool_]


def marked(unit: Unit, config: TokenizeConfig) -> Iterator[tuple[str, bytes] | None]:
    """Yield `(text, mark)` of the documents of a unit in order, None for one that is no text."""
    for piece in unit:
        for text in documents(piece, config):
            if text is None:
                yield None
                continue
            whole = text.encode("utf-8", "replace")  # JSON can spell half a surrogate pair
            mark = hashlib.blake2b(whole, digest_size=MARK_BYTES).digest()
            yield (text if text.isascii() else whole.decode()), mark


def validates(mark: bytes, fraction: float) -> bool:
    """Whether the document belongs to the validation part: equal texts always agree."""
    return int.from_bytes(mark[:8], "big") < fraction * 2**64


def save_marks(unit: Unit, config: TokenizeConfig, file: Path) -> None:
    """Write the marks of a unit, (n, 16) uint8."""
    joined = b"".join(found[1] for found in marked(unit, config) if found)
    draft = file.with_suffix(".partial")
    draft.write_bytes(joined)
    draft.replace(file)


def copies(files: Sequence[Path]) -> list[Mask]:
    """Return, for each file of marks, which of its documents stood before, there or in one above.

    The marks are compared in as many rounds as memory asks for, each over those that begin alike.
    """
    n_each = [file.stat().st_size // MARK_BYTES for file in files]
    masks = [np.zeros(n, dtype=np.bool_) for n in n_each]
    n_rounds = max(1, -(-sum(n_each) // _AT_ONCE))
    for number in range(n_rounds):
        _compare(files, masks, number, n_rounds)
    return masks


def _compare(files: Sequence[Path], masks: list[Mask], number: int, n_rounds: int) -> None:
    marks, owners, places = [], [], []
    for owner, file in enumerate(files):
        words = np.fromfile(file, dtype=">u8").reshape(-1, 2)
        chosen = np.flatnonzero(words[:, 1] % n_rounds == number)
        marks.append(words[chosen].astype(np.uint64))
        owners.append(np.full(len(chosen), owner, dtype=np.int32))
        places.append(chosen)
    every = np.concatenate(marks)
    order = np.lexsort((every[:, 1], every[:, 0]))  # stable: copies stay in the order of the text
    again = (every[order[1:]] == every[order[:-1]]).all(axis=1)
    owner_of, place_of = np.concatenate(owners), np.concatenate(places)
    for index in order[1:][again]:
        masks[owner_of[index]][place_of[index]] = True
