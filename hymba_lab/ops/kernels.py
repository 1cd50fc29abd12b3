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

CHUNK = 16  # steps between stored states
PADDED = 16  # stored states are padded to a multiple of this many channels
GROUP = 128  # channels of one task
WORK_PER_THREAD = 250_000  # channel-states below which one more thread costs more than it brings
_SIZES = ("n_batch", "n_time", "n_channels", "n_states", "n_threads", "z_stride")
_POINTERS = (
    *("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0"),
    *("y", "h_last", "starts", "grad_y", "grad_h_last"),
    *("grad_x", "grad_dt", "grad_A", "grad_B", "grad_C", "grad_D"),
    *("grad_z", "grad_dt_bias", "grad_h0"),
    *("part_B", "part_C", "part_A", "part_D", "part_dt_bias"),
)
_BUILD = "`pip install .` (or `python setup.py build_ext --inplace` in a checkout)"


class ScanArgs(ctypes.Structure):
    """The kernel's `ScanArgs`, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in _SIZES] + [
        (name, ctypes.c_void_p) for name in _POINTERS
    ]


_LAYOUT = ((CHUNK * 1000 + PADDED) * 1000 + GROUP) * 1000 + ctypes.sizeof(ScanArgs)


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
        return f"{path.name} was not built; install g++ or clang (C++17), then run {_BUILD} again"
    try:
        built = library(name)
        built.hymba_scan_layout.restype = ctypes.c_int64
        layout = built.hymba_scan_layout()
        _ = built.hymba_swiglu  # the newest function: an older build lacks it
    except (OSError, AttributeError) as error:
        return f"{path.name} does not load ({error}); run {_BUILD} on this machine"
    if layout != _LAYOUT:
        return f"{path.name} belongs to another version of the code; run {_BUILD} again"
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
    found[function].restype = ctypes.c_int64
    return int(found[function]())


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


def _token_stride(z: Tensor | None) -> int:
    """Floats from one token of z to the next; the stride of a dimension of size 1 says nothing."""
    if z is None:
        return 0
    return z.shape[-1] if z.is_contiguous() else z.stride(-2)


def call(function: str, shape: tuple[int, int, int, int], **tensors: Tensor | None) -> None:
    """Run `hymba_scan_<function>` over shape (B, T, D, N); the tensors are fields of `ScanArgs`."""
    n_batch, n_time, n_channels, n_states = shape
    work = n_batch * n_time * n_channels * n_states
    threads = max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))
    z_stride = _token_stride(tensors.get("z"))
    pointers = {
        name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()
    }
    args = ScanArgs(*shape, threads, z_stride, **pointers)
    run(f"hymba_scan_{function}", args)
