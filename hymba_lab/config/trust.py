"""Which plugin files may run: those that the user names, now or in an experiment of their own.

A plugin is code. The configuration inside a run, an export or a checkpoint may come from anybody,
so what it names is imported only when the user names it, too, or when its very content was part of
an experiment or sweep that the user ran here: those are remembered by sha256 in the cache folder
(`plugins/<sha256>`).
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hymba_lab.errors import ConfigError, UserError


def remember(hashes: Sequence[str]) -> None:
    """Note that the user's own experiment uses plugins of this content; no cache, no note."""
    for sha256 in hashes:
        with suppress(OSError, UserError):
            note = _note(sha256)
            if not note.exists():
                note.parent.mkdir(parents=True, exist_ok=True)
                note.touch()


def trusted(listed: Sequence[str], named: Sequence[Path]) -> list[str]:
    """Return where the listed plugins may be loaded from: a named file, or a remembered content.

    `named` are the files of `--plugin`; one stands for the listed plugin of its file name. Raises
    `ConfigError`, before anything is imported, for a plugin that the user has not named.
    """
    mine = {path.name: path for path in named}
    return [str(mine.get(Path(name).name) or _remembered(name)) for name in listed]


def _remembered(name: str) -> Path:
    path = Path(name)
    with suppress(OSError, UserError):
        if _note(hashlib.sha256(path.read_bytes()).hexdigest()).exists():
            return path
    raise ConfigError(
        f"plugins: the configuration inside asks to run the Python file {name}, which is no part "
        "of an experiment that you ran here; read it, then name it with "
        f"--plugin {path.name}, or leave this run alone."
    )


def _note(sha256: str) -> Path:
    from hymba_lab.data.cache import cache_folder

    return cache_folder() / "plugins" / sha256
