"""Text that is there without a download: the standard library of the running Python."""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hymba_lab.data.corpus import Encoding, Split, load, split_documents
from hymba_lab.data.source import datasets
from hymba_lab.data.streams import TokenStream
from hymba_lab.errors import DataError
from hymba_lab.registry import FROM_FILE, LATER

LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib-dynload", "__pycache__"}
)


@datasets.register("stdlib")
def stdlib(
    seq_len: int,
    *,
    rows: Annotated[int, Field(ge=1, le=2**31)],
    tokenizer: Encoding = "bytes",
    n_bpe: Annotated[int, Field(ge=257, le=65536)] = 4096,
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    max_mb: Annotated[float, Field(gt=0)] | None = None,
    n_val: Annotated[int, Field(ge=1, le=2**31)] = 128,
    tokenizer_file: Annotated[str | None, FROM_FILE, LATER] = None,
    end_of_text: Annotated[str | None, LATER] = None,
) -> TokenStream:
    """Return the sources of the standard library, docstrings and `pydoc` topics included.

    Every `*.py` file is a document (about 12 MB); test suites, installed packages and files made
    by the build of this Python are left out. A file validates when the hash of its relative path
    falls below `val_fraction`. `max_mb` [1e6 bytes] takes that much, the same files everywhere.
    `n_bpe` [ids] counts with `tokenizer: bpe` only; `tokenizer_file` is a tokenizer.json to be used
    as it is, which sources may share: the experiment's `tokenizer:` where none is named;
    `end_of_text` its token that ends a document, where it has none of the usual names. `n_val`
    [windows of seq_len tokens].
    The fingerprint holds the Python version: text of two versions is not the same data.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = stdlib_files(root)
    corpus = load(
        "stdlib",
        files,
        lambda: _documents(root, files, val_fraction, max_mb),
        encoding=tokenizer,
        n_bpe=n_bpe,
        tokenizer_file=tokenizer_file,
        end_of_text=end_of_text,
        options={
            "python": platform.python_version(),
            "val_fraction": val_fraction,
            "max_mb": max_mb,
        },
    )
    return corpus.stream("stdlib", seq_len, rows=rows, n_val=n_val)


def stdlib_files(root: Path) -> list[Path]:
    """Return the `*.py` files under `root` that are the same on every machine, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        # config-*: the makefile of this build; _sysconfigdata*: its compiler flags and paths
        folders[:] = [f for f in folders if f not in LEFT_OUT and not f.startswith("config-")]
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    if not found:
        raise DataError(
            f"stdlib: no *.py file under {root}: this Python ships its library compiled or zipped; "
            "use the source `files` with text of your own"
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _documents(
    root: Path, files: Sequence[Path], val_fraction: float, max_mb: float | None
) -> Split:
    texts: dict[str, bytes] = {}
    for path in files:
        try:
            text = path.read_bytes()
            text.decode("utf-8")
        except UnicodeDecodeError:
            continue  # a few sources in other encodings, of no use to a UTF-8 tokenizer
        except OSError as error:
            raise DataError(f"stdlib: cannot read {path}: {error.strerror}") from error
        texts[path.relative_to(root).as_posix()] = text
    split = split_documents(list(texts.values()), list(texts), val_fraction)
    if max_mb is None:
        return split
    train = _capped(split.train, max_mb * 1e6 * (1 - val_fraction))
    val = _capped(split.val, max_mb * 1e6 * val_fraction)
    if not any(train) or not any(val):
        raise DataError(
            f"stdlib: max_mb: {max_mb} with val_fraction: {val_fraction} leaves no text for "
            f"{'validation' if any(train) else 'training'}; use a larger max_mb, 0.5 or more"
        )
    return Split(train, val)


def _capped(documents: Sequence[bytes], most: float) -> list[bytes]:
    """Return documents of at most `most` bytes together, tried in the order of their hashes.

    So a cap takes short and long files from all over the library.
    """
    order = sorted(
        range(len(documents)), key=lambda number: hashlib.sha256(documents[number]).digest()
    )
    chosen, total = set(), 0
    for number in order:
        if total + len(documents[number]) <= most:
            chosen.add(number)
            total += len(documents[number])
    return [documents[number] for number in sorted(chosen)]
