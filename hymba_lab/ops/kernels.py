"""Loads the compiled kernels and calls them with pointers.

They are one plain shared library without torch headers (`csrc/`), built once per instruction set by
setup.py. They compute in float32 with as many threads as torch uses; their number does not change a
bit of a result.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_BUILD = "`python setup.py build_ext --inplace` (in a clone; else `pip install` it anew)"
_LAYOUTS: dict[str, int] = {}  # function of the library -> the number that it must return


def expect(function: str, number: int) -> None:
    """Take only builds whose `function` returns `number`: the layout of what Python hands over."""
    _LAYOUTS[function] = number


@cache
def variant() -> str:
    """The build for this processor: v4 (x86-64-v4, AVX-512), v3 (AVX2) or the plain one."""
    return {"AVX512": "v4", "AVX2": "v3"}.get(torch.backends.cpu.get_cpu_capability(), "plain")


def missing() -> str | None:
    """Why the kernel cannot run here and what to do about it; None when it can."""
    return _missing(variant())


@cache
def _missing(name: str) -> str | None:
    path = _path(name)
    if not path.exists():
        return f"{path.name} was not built; install g++ or clang (C++17), then run {_BUILD}"
    try:
        built = library(name)
        found = {function: _number(built, function) for function in _LAYOUTS}
        _ = built.hymba_swiglu  # the newest function: an older build lacks it
    except (OSError, AttributeError) as error:
        return f"{path.name} does not load ({error}); run {_BUILD} on this machine"
    if found != _LAYOUTS:
        return f"{path.name} belongs to another version of the code; run {_BUILD}"
    return None


def _path(name: str) -> Path:
    return Path(__file__).with_name(f"_scan_{name}.so")


@cache
def library(name: str) -> ctypes.CDLL:
    """Return the build for one instruction set, with torch's own OpenMP threads lent to it."""
    built = ctypes.CDLL(str(_path(name)))
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]:
        runtime = ctypes.CDLL(str(path))  # the one that torch has loaded: its threads are awake
        built.hymba_use_threads(ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p))
    return built


def compiled() -> ctypes.CDLL | None:
    """The functions compiled for this processor; None without them."""
    return None if missing() is not None else library(variant())


def constant(function: str) -> int:
    """A number that the kernels were built with, such as the rows of one task."""
    found = compiled()
    assert found is not None
    return _number(found, function)


def _number(built: ctypes.CDLL, function: str) -> int:
    called = built[function]  # every look-up makes a new object, with a type of its own
    called.restype = ctypes.c_int64
    return int(called())


def run(function: str, args: ctypes.Structure) -> None:
    """Call a compiled function with its arguments."""
    found = compiled()
    assert found is not None
    found[function](ctypes.byref(args))


def dense(tensor: Tensor | None) -> Tensor | None:
    """The tensor as the kernel reads it: float32 without gaps."""
    return None if tensor is None else tensor.float().contiguous()


def dense_rows(z: Tensor | None) -> Tensor | None:
    """z (B, T, D) as the kernel reads it: float32, tokens at one common distance."""
    if z is None or z.dtype != torch.float32:
        return dense(z)
    evenly_spaced = z.stride(-1) == 1 and z.stride(0) == z.shape[1] * z.stride(1)
    return z if evenly_spaced else z.contiguous()
