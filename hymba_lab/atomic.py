"""Files that are whole or not there: written beside their place, flushed to the disk, moved in.

And read as they are found: a pipe, a device or gigabytes are refused, not waited for. And the one
folder outside of `--root` that a command may write to.
"""

import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hymba_lab.errors import DataError, StoreError, TrialFailed


def make_folder(path: Path, option: str = "--root") -> None:
    """Create a folder and its parents; a `StoreError` says why it cannot be, and what names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: the folder cannot be made: {error.strerror}; "
            f"give a folder you can write to with {option}."
        ) from None


Guard = Callable[[], None]
"""Raises when the file must not be replaced any more; asked right before it is."""


def write_atomically(
    path: Path, text: str, durable: bool = True, guard: Guard | None = None
) -> None:
    """Write a text file so that a reader, or a crash, sees the old or the new one, whole."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if guard:
                guard()
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}.") from None


@contextmanager
def written(path: Path, guard: Guard | None = None) -> Iterator[Path]:
    """Give a path beside `path`; what the block writes there stands at `path` after it, or nothing.

    Raises `TrialFailed("disk")` with the path and the reason, whatever a library wrapped that in.
    """
    # one name: a kill leaves at most one behind; with a guard, two processes may write at a time
    own = f".{os.getpid()}.{uuid.uuid4().hex[:8]}" if guard else ""
    partial = path.with_name(f"{path.name}{own}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if guard:
            guard()
        os.replace(partial, path)
    except BaseException as error:
        size = partial.stat().st_size if partial.exists() else 0
        partial.unlink(missing_ok=True)
        reason = of_the_system(error)
        if reason is None:
            raise
        raise TrialFailed(
            "disk",
            f"{path}: cannot be written ({size / 1e6:.1f} MB so far): {reason}; "
            "make room or mend the folder, then start again: the run continues from the last "
            "checkpoint that was written.",
        ) from error


def of_the_system(error: BaseException) -> str | None:
    """Return what the system said, where that is why: torch hides it, safetensors cites it."""
    if type(error) is RuntimeError and isinstance(error.__context__, OSError):
        error = error.__context__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(number[1])) if number else None


def write_bytes(path: Path, content: bytes, guard: Guard | None = None) -> None:
    """Write a file atomically; raises `TrialFailed("disk")` with the path and the reason."""
    with written(path, guard) as partial:
        partial.write_bytes(content)


_NO_CACHE = (
    "this user has no home folder for the token cache; set HYMBA_LAB_CACHE to a folder that can be "
    "written"
)


def cache_folder() -> Path:
    """Return `$HYMBA_LAB_CACHE`, else `$XDG_CACHE_HOME/hymba_lab`, else `~/.cache/hymba_lab`."""
    if own := os.environ.get("HYMBA_LAB_CACHE"):
        return Path(os.path.expanduser(own)).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "hymba_lab"
    home = have_a_home()
    if home != NOWHERE:
        return home / ".cache" / "hymba_lab"
    raise DataError(_NO_CACHE)


NOWHERE = Path("/nonexistent")
"""The home folder of users who have none, as Debian calls it."""


def have_a_home() -> Path:
    """Return the user's home folder; one without HOME and an entry in passwd is given `NOWHERE`.

    Such are users of containers that were started with a number. Packages ask where home is and
    do not expect an error: MLflow's import ends with it.
    """
    try:
        return Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(NOWHERE)
        return NOWHERE


def give_datasets_a_home() -> None:
    """Let the package `datasets` keep its files in our cache where the user's home takes none.

    To be called before its first import. Raises DataError where there is no cache either.
    """
    if {"HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"} & os.environ.keys():
        return
    place = have_a_home() / ".cache" / "huggingface"  # one that is there may be filled to be read
    there = next(above for above in (place, *place.parents) if os.path.exists(above))
    if there == place or (os.access(there, os.W_OK) and have_a_home() != NOWHERE):
        return
    if not os.environ.get("HYMBA_LAB_CACHE"):
        raise DataError(_NO_CACHE)
    os.environ["HF_HOME"] = str(cache_folder() / "huggingface")


MOST_BYTES = 256_000_000


def text_of(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Return the text of a file in UTF-8.

    Raises `OSError` or `ValueError` for every fault, as `json_of` does; who asks for the file says
    in its own words what belongs there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EINVAL, "is no file but a pipe or a device", str(path))
    if found.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"is larger than {most_bytes:,} bytes", str(path))
    return path.read_text(encoding="utf-8")


def json_of(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file."""
    return parsed_json(text_of(path, most_bytes))


def facts_of(path: Path) -> dict[str, Any]:
    """Return the facts that a JSON file holds; {} where there is none, or another content."""
    try:
        found = json_of(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def parsed_json(text: str) -> Any:
    """Return the content of a JSON text; one that is nested too deeply is a `ValueError`, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
