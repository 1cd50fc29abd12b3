"""Where a number comes from: commit, uncommitted changes, hardware, package versions."""

import os
import platform
import subprocess
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
        """Whether tracked files differ from the commit."""
        return bool(self.diff)


@cache
def commit() -> Commit:
    """Return the commit of the installed code, or of the working folder when that has none."""
    for folder in (Path(__file__).resolve().parent, Path.cwd()):
        sha = _git(folder, "rev-parse", "HEAD")
        if sha:
            return Commit(
                sha.strip(), _git(folder, "diff", "HEAD", "--", "*.py", "*.yaml", "*.cpp")
            )
    return Commit("", "")


@cache
def hardware() -> str:
    """Return the processor, its core count, memory, and GPUs if there are any."""
    parts = [f"{_processor()}, {os.cpu_count()} cores"]
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        parts.append(f"{memory:.0f} GiB")
    except (ValueError, OSError):  # not every system tells
        pass
    return ", ".join(parts)


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
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
