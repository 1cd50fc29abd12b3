"""Small files of text as they are found: a pipe, a device or gigabytes are refused, not waited for.

Both functions raise what `open` and `json` raise, `OSError` and `ValueError`, for every fault; who
asks for the file says in its own words what belongs there.
"""

import errno
import json
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 256_000_000


def text_of(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Return the text of a file in UTF-8."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EINVAL, "is no file but a pipe or a device", str(path))
    if found.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"is larger than {most_bytes:,} bytes", str(path))
    return path.read_text(encoding="utf-8")


def json_of(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file."""
    return parsed_json(text_of(path, most_bytes))


def parsed_json(text: str) -> Any:
    """Return the content of a JSON text; one that is nested too deeply is a `ValueError`, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
