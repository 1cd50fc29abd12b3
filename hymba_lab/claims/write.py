"""The claims of one scale, from file to files."""

import re
from pathlib import Path

from hymba_lab.atomic import write_atomically
from hymba_lab.claims.file import load_claims
from hymba_lab.claims.judge import answers
from hymba_lab.claims.page import to_csv, to_markdown
from hymba_lab.claims.sides import Results
from hymba_lab.errors import UserError
from hymba_lab.sweep.export import no_exports


def write_claims(path: Path, results: Path, scale: str) -> list[Path]:
    """Write `claims-<scale>.md` and `.csv` into `results` and return their paths."""
    claims = load_claims(path)
    if not re.fullmatch(r"\w[\w.+-]*", scale):
        raise UserError(f"--scale {scale!r} names files: use letters, digits, . + - _")
    if not results.is_dir():
        raise no_exports(results)
    found = answers(claims, Results(claims, results, scale))
    texts = {
        f"claims-{scale}.md": to_markdown(claims, found, scale),
        f"claims-{scale}.csv": to_csv(claims, found),
    }
    for name, text in texts.items():
        write_atomically(results / name, text)
    return [results / name for name in texts]
