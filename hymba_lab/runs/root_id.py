"""A word in the project folder by which a worker knows that it is its coordinator's folder."""

import os
import uuid
from contextlib import suppress
from pathlib import Path

from hymba_lab.atomic import make_folder
from hymba_lab.errors import StoreError

ROOT_ID = "root.id"


def root_id(root: Path) -> str:
    """Return the word of `<root>/runs`, made by whoever asks first."""
    folder = root / "runs"
    file = folder / ROOT_ID
    made = uuid.uuid4().hex
    beside = folder / f".{ROOT_ID}.{made}"
    make_folder(folder)
    try:
        if not file.exists():
            beside.write_text(made, encoding="utf-8")
            with suppress(FileExistsError):
                os.link(beside, file)
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        with suppress(OSError):  # a file system without links
            file.write_text(made, encoding="utf-8")
            return file.read_text(encoding="utf-8").strip()
        raise StoreError(f"{file}: cannot be written; give another folder with --root.") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
