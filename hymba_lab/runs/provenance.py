"""Where a number comes from: commit, uncommitted changes, hardware, package versions."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE_VERSION = 1
"""Raised when the training code's meaning changes, so that old and new runs are never mixed."""


@dataclass(frozen=True)
class Commit:
    """`sha` is empty outside a repository; `diff` is what is not committed (empty = clean)."""

    sha: str
    diff: str

    @property
    def dirty(self) -> bool:
        """Whether the code's files differ from the commit, new ones included."""
        return bool(self.diff)


@cache
def commit() -> Commit:
    """Return the commit of the repository that tracks this very code.

    Another repository around an installed package says nothing about the code: then the sha is
    empty, as without git, and the installed version (`versions`) says what ran.
    """
    package = Path(__file__).resolve().parents[1]
    if not _git(package, "ls-files", "--error-unmatch", "--", "runs/provenance.py"):
        return Commit("", "")
    sha = _git(package, "rev-parse", "HEAD").strip()
    if not sha:
        return Commit("", "")
    diff = _git(package, "diff", "HEAD", "--", ":/*.py", ":/*.yaml", ":/*.cpp", ":/*.h")
    new = _git(package, "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.cpp", "*.h")
    return Commit(sha, diff + "".join(f"new file: {name}\n" for name in new.splitlines()))


def is_dirty(plugins: Iterable[str | Path] = ()) -> bool:
    """Whether no commit holds all the code of a run: the package's, or a plugin of the user's."""
    return commit().dirty or not all(map(_is_committed, map(Path, plugins)))


@cache
def _is_committed(path: Path) -> bool:
    """Whether the repository around a file holds it as it is now."""
    folder, name = path.resolve().parent, path.resolve().name
    if not folder.is_dir() or not _git(folder, "ls-files", "--error-unmatch", "--", name):
        return False
    return not _git(folder, "status", "--porcelain", "--", name)


@cache
def hardware() -> str:
    """Return the processor with its widest vectors, its core count and the memory.

    Vectors of another width sum in another order: last bits differ, and learning enlarges that.
    """
    vectors = _vectors()
    parts = [_processor() + (f" ({vectors})" if vectors else ""), f"{os.cpu_count()} cores"]
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts.append(f"{memory:.0f} GiB")
    except (ValueError, OSError):  # not every system tells
        pass
    return ", ".join(parts)


def computed_on() -> str:
    """Return the hardware, the GPU first where this process has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return hardware()
    return f"{torch.cuda.get_device_name()}, {hardware()}"


def n_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages a result can depend on."""
    found = {"python": platform.python_version()}
    for name in ("hymba-lab", "torch", "lightning", "optuna", "mlflow", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _vectors() -> str:
    """The widest vectors that torch and the lab's kernels take, of those of an x86 processor."""
    flags = _cpuinfo("flags").split()
    known = {"AVX-512": "avx512f", "AVX2": "avx2"}
    return next((name for name, flag in known.items() if flag in flags), "")


def _cpuinfo(key: str) -> str:
    """The first processor's entry in Linux's list; empty where there is none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def content_of(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return file name -> sha256 of the user's own files, whatever repository tracks them."""
    found = {}
    for path in map(Path, paths):
        with suppress(OSError):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says about `folder`; nothing where it says nothing.

    Variables such as GIT_DIR, set in hooks and by some shells, would name another repository. A
    diff may hold any bytes: they are shown as U+FFFD.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=10, env=env
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
