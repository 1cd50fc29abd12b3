"""Which kind of file a document is: one given to the wrong command is told the right one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymba_lab.errors import ConfigError

# what a file is -> the keys that only such a file has all of, and what takes it
KINDS = {
    "a sweep": ({"question", "axes"}, "hymba-lab sweep"),
    "an experiment": ({"model", "optimizer"}, "hymba-lab train"),
    "a corpus": ({"out", "tokenizer"}, "hymba-lab tokenize"),
    "papers' claims": ({"paper", "claims"}, "hymba-lab claims --claims"),
    "the scale of sweeps": ({"base", "words"}, "hymba-lab sweep with --scale"),
    "the record of a run": (
        {"identity", "config", "metrics"},
        "hymba-lab probes, by its folder,",
    ),
    "the export of a sweep": ({"baseline", "format"}, "hymba-lab report, by its folder,"),
}


def refuse_another(data: Mapping[str, Any], path: Path, wanted: str) -> None:
    """Raise `ConfigError` where a file is plainly of another kind than the one that is wanted."""
    kinds = [kind for kind, (keys, _) in KINDS.items() if keys <= data.keys()]
    if kinds and wanted not in kinds:
        raise ConfigError(
            f"{path}: this file is {kinds[0]}, not {wanted}; {KINDS[kinds[0]][1]} takes it."
        )
