"""The claims of one scale, from files to files."""

import re
from pathlib import Path

from hymba_lab.atomic import write_atomically
from hymba_lab.claims.counted import counted
from hymba_lab.claims.file import load_all
from hymba_lab.claims.judge import judged
from hymba_lab.claims.page import to_markdown
from hymba_lab.claims.sides import Results
from hymba_lab.claims.table import to_csv
from hymba_lab.errors import UserError
from hymba_lab.sweep.export import require_exports


def write_claims(path: Path, results: Path, scale: str) -> list[Path]:
    """Write `claims-<scale>.md` and `.csv` into `results` and return their paths.

    `path` is a file of claims, or a folder of which all files are read as one.
    """
    files = load_all(path)
    if not re.fullmatch(r"\w[\w.+-]*", scale):
        raise UserError(f"--scale {scale!r} names files: use letters, digits, . + - _")
    require_exports(results)
    found, count = counted(judged(files, Results(results, scale)))
    texts = {
        f"claims-{scale}.md": to_markdown(found, count, scale),
        f"claims-{scale}.csv": to_csv(found),
    }
    for name, text in texts.items():
        write_atomically(results / name, text)
    return [results / name for name in texts]
