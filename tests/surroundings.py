"""A finished tiny sweep and the real command, for tests of machines as they are found."""

import csv
import io
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from sweeping import SMALL, SWEEP, Lab

# what depends on the moment and on the repository, not on the question
MOMENTARY = {"tokens_per_second", "seconds", "commit", "dirty"}
TIMEOUT_S = 600.0
STRANGER = 54321  # a user without an entry in passwd, as in containers


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def project(folder: Path, *, seeds: str = "[0]") -> Path:
    """Write the tiny experiment and its sweep into a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(SMALL)
    (folder / "sweep.yaml").write_text(SWEEP.replace("[0, 1]", seeds))
    return folder


def lab_in(folder: Path) -> Lab:
    """A laboratory of the files that are there."""
    lab = Lab.__new__(Lab)
    lab.folder = folder
    return lab


def environment(**changes: str | None) -> dict[str, str]:
    """Return this process's environment with some variables set, or taken out (None)."""
    fresh = {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "MPLBACKEND": None, "MPLCONFIGDIR": None}
    kept = {**os.environ, **fresh, **changes}
    return {name: value for name, value in kept.items() if value is not None}


def call(
    module: str,
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str | None] = {},
    user: int | None = None,
) -> Said:
    """Run `python -m hymba_lab.<module>` as a user does, as another one where asked."""
    done = subprocess.run(
        [*as_user(user), sys.executable, "-m", f"hymba_lab.{module}", *map(str, arguments)],
        cwd=cwd, env=environment(**env), capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return Said(done.returncode, out, err)


def as_user(user: int | None) -> list[str]:
    """Return what a command begins with to be another user's.

    That one may read all files, since Python itself may lie in the home folder of the one who
    tests; it may write its own only.
    """
    if user is None:
        return []
    reading = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *reading]


def numbers(folder: Path, name: str = "sweep-tiny") -> list[dict[str, str]]:
    """The lines of the table of runs, every number to the last digit."""
    text = (folder / "runs" / "sweeps" / name / "runs.csv").read_text(encoding="utf-8")
    return [
        {key: value for key, value in line.items() if key not in MOMENTARY}
        for line in csv.DictReader(io.StringIO(text))
    ]


def results(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*/result.json"))


def forget_one(folder: Path) -> Path:
    """Take one finished run's folder away, so that the same command has something to train."""
    run = results(folder)[0].parent
    shutil.rmtree(run)
    return run


def owned(folder: Path, user: int) -> None:
    """Give a folder and all that is in it to a user."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, user)


@contextmanager
def somebody(user: int) -> Iterator[None]:
    """Be a user with no rights but their own, where the one who tests is root."""
    if os.geteuid() != 0:
        yield
        return
    groups, umask = os.getgroups(), os.umask(0o022)
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.umask(umask)


def tree(folder: Path, leave_out: Sequence[Path] = ()) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of writing, every folder as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(path == out or out in path.parents for out in leave_out):
            continue
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (
            (-1, -1) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        )
    return found


SPECIAL = [
    "what?now", "a%b", "a%41", "a%2Fb", "a#b", "with space", " leading", "trailing ",
    "ü ö", "e\N{COMBINING ACUTE ACCENT}", "日本", "@x:y", "a;b", "a&b=c", "quote'\"", "back\\slash",
    "$HOME", "-dash", "~", "%%", "[x]", "[x]]", "{y}", "..z", "sqlite:", "a,b", "tab\there",
    "*",    "!", "`id`", "<b>", "|", "\N{GRINNING FACE}", ":memory:", "?mode=ro",
]  # fmt: skip


def folder_names(n: int, seed: int = 0) -> list[str]:
    """Return names that people, programs and other alphabets give to folders, the odd ones first.

    The rest is drawn: printable ASCII and some of Unicode, 1 to 24 characters.
    """
    chance = random.Random(seed)
    ascii_ = [chr(code) for code in range(32, 127) if chr(code) != "/"]
    other = [*"äéßøñçłžğıİ", *"αβγ", *"дЖы", *"漢字かな", *"עבר", "\u00a0", "\u200b", "\u2028"]
    names = list(SPECIAL)
    while len(names) < n:
        letters = chance.choices(ascii_, k=chance.randint(1, 20)) + chance.choices(
            other, k=chance.randint(0, 4)
        )
        chance.shuffle(letters)
        name = "".join(letters)
        known = {unicodedata.normalize("NFC", one).casefold() for one in names}
        if name.strip(".") and unicodedata.normalize("NFC", name).casefold() not in known:
            names.append(name)
    return names[:n]
