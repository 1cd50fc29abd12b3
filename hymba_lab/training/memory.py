"""The memory of a process that trains: how much there is; kept, not asked for in every step."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3) in glibc's malloc.h
_LARGEST = 32 * 2**20  # block [bytes] that glibc may be told to keep on 64-bit systems


def keep_memory() -> bool:
    """Tell glibc's malloc to keep freed blocks of up to 32 MiB; False where there is no glibc.

    By default it returns large blocks to the system, and every step pays a page fault for each
    4 KiB of its activations again (figures: results/benchmarks.md, "Train step").
    """
    if sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def available_bytes() -> int:
    """Return the memory [bytes] that this process may still take: the machine's, or its job's.

    Slurm and containers set a job's by a control group (version 2), of any level above the process.
    """
    found = [int(psutil.virtual_memory().available)]
    group = _CGROUPS / _of_this_process().lstrip("/")
    for one in (group, *group.parents):
        with suppress(OSError, ValueError):  # "max", and the root, which has no limit
            limit, used = (int((one / f"memory.{name}").read_text()) for name in ("max", "current"))
            found.append(max(0, limit - used + _reclaimable(one)))
        if one == _CGROUPS:
            break
    return min(found)


def _of_this_process() -> str:
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:]
    return "/"


def _reclaimable(group: Path) -> int:
    """The group's file cache, which it gives up where a process needs memory [bytes]."""
    with suppress(OSError):
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0
