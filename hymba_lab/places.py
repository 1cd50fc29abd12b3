"""Where a command may write besides `--root`: one cache folder, for what packages keep, too."""

import os
from contextlib import suppress
from pathlib import Path

from hymba_lab.errors import DataError


def cache_folder() -> Path:
    """Return `$HYMBA_LAB_CACHE`, else `$XDG_CACHE_HOME/hymba_lab`, else `~/.cache/hymba_lab`."""
    if own := os.environ.get("HYMBA_LAB_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "hymba_lab"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in containers
        raise DataError(
            "this user has no home folder for the token cache; set HYMBA_LAB_CACHE to a folder "
            "that can be written"
        ) from None


def keep_matplotlib_here() -> None:
    """Let matplotlib, where a command draws, write its font list into the cache folder, too.

    It would make folders in HOME, and read a style from there that changes figures. Figures are
    written, never shown.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    with suppress(DataError):  # no place: it takes a temporary folder and says so
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
