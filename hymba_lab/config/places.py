"""Where a path leads that a file names: to its place beside that very file.

One rule for all: `base:` of a sweep, `extends:` and `plugins:` of an experiment, the paths of its
data. A path given on the command line (`--set`) is relative to the working folder.
"""

import re
from contextlib import suppress
from pathlib import Path

_MARK = re.compile(r"^(?P<file>.*):\d+:\d+$", re.DOTALL)


def folder_of(mark: str) -> Path:
    """Return the folder that paths named at `mark` (`file:line:column`) are relative to."""
    found = _MARK.match(mark)
    return Path(found["file"]).parent if found else Path()


def beside(mark: str, name: str) -> Path:
    """Return the place of `name`, which a file names at `mark` (file:line:column).

    An absolute path stays as it is; `~` is the user's home.
    """
    path = Path(name)
    if name.startswith("~"):
        with suppress(RuntimeError):  # no home folder: the name stands for itself
            path = path.expanduser()
    return folder_of(mark) / path


def missing(mark: str, name: str, what: str = "file") -> str:
    """Return what to say of a path that leads nowhere, with a word for who meant another rule."""
    told = f"there is no {what} {name} in {folder_of(mark).absolute()}"
    if Path(name).exists() and not Path(name).is_absolute():
        return (
            f"{told}, but there is one in the working folder; a path is relative to the file that "
            "names it: write it from there, or as an absolute path."
        )
    return f"{told}; a path is relative to the file that names it."
