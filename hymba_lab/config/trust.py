"""Whose plugins may run: a configuration that came with weights never brings its own code along.

A plugin is Python. It runs when the user names it: in an experiment or sweep of their own, with
`--plugin FILE`, or by `load_plugin`. What a run, a checkpoint or a downloaded folder names runs
only when its content is that of a plugin which ran for the user before; otherwise it is refused
before anything is imported. The contents that ran are remembered by their sha256, one empty file
each, in `<cache>/plugins` (`HYMBA_LAB_CACHE`).
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hymba_lab.errors import ConfigError


def remember(hashes: Sequence[str]) -> None:
    """Note the contents of plugins that the user's own experiment runs."""
    if not hashes:
        return
    with suppress(OSError, RuntimeError):  # no place to note it: the user names it again then
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for sha256 in hashes:
            (folder / sha256).touch()


def known(sha256: str) -> bool:
    """Whether a plugin of this content ran for the user before."""
    with suppress(OSError, RuntimeError):
        return (_folder() / sha256).is_file()
    return False


def refuse_strangers(listed: Any, source: str) -> None:
    """Raise `ConfigError` when one of the listed plugins is not known to be the user's own.

    `source` names what lists them. What is no list of files is left to the schema.
    """
    for name in listed if isinstance(listed, list) else []:
        if not isinstance(name, str):
            continue
        try:
            content = Path(name).read_bytes()
        except (OSError, ValueError):
            raise ConfigError(
                f"{source}: it was made with the plugin {name}, which is not here; name your own "
                f"copy of it: --plugin {Path(name).name}"
            ) from None
        if not known(hashlib.sha256(content).hexdigest()):
            raise ConfigError(
                f"{source}: it names the plugin {name}: code that would be run, and none of an "
                "experiment of yours. Nothing was run. Read it; if you trust it, name it: "
                f"--plugin {name}"
            )


def _folder() -> Path:
    from hymba_lab.atomic import cache_folder

    return cache_folder() / "plugins"
