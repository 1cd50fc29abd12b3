"""Which runs a folder's probes are of; no torch is needed to read it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hymba_lab.atomic import text_of
from hymba_lab.errors import StoreError

README = "README.md"
UNFINISHED = "# Probes\n\nUnfinished: these files are not of one set of runs.\n"
_LINE = re.compile(r"^- Identities: ([0-9a-f]+)$", re.MULTILINE)


def mark_of(runs: Iterable[tuple[str, int, str]]) -> str:
    """Return what tells these runs (row, seed, identity) from all others."""
    lines = sorted(f"{row}\t{seed}\t{identity}" for row, seed, identity in runs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def require_same(folder: Path, runs: Iterable[Mapping[Any, Any]]) -> None:
    """Raise `StoreError` where `folder`/probes are unfinished, or not of an export's finished runs.

    Probes that were written before they named their runs are taken as they are.
    """
    try:
        text = text_of(folder / "probes" / README)
    except (OSError, UnicodeDecodeError):
        return
    if text == UNFINISHED:
        raise StoreError(
            f"{folder / 'probes'}: the probes are unfinished; probe again with `hymba-lab probes`, "
            "or remove the folder."
        )
    found = _LINE.search(text)
    done = [
        (str(line["row"]), int(line["seed"]), str(line["identity"]))
        for line in runs
        if line["status"] == "finished"
    ]
    if found is not None and found[1] != mark_of(done):
        raise StoreError(
            f"{folder / 'probes'}: the probes are of other runs than runs.csv beside them; probe "
            "again with `hymba-lab probes`, or remove the folder."
        )
