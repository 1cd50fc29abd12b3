"""The memory of a process that trains: kept, not given back and asked for again in every step."""

import ctypes
import os
import sys

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
