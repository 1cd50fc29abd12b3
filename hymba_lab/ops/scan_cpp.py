"""Selective scan on the CPU through the compiled kernel `csrc/selective_scan.cpp`.

The kernel is a plain shared library without torch headers, loaded by ctypes and wrapped as torch
operators, so that autograd and `torch.compile(fullgraph=True)` see one opaque operation. It
computes in float32; other dtypes are converted here. The number of threads is torch's and does
not change a bit of the result.
"""

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK = 16  # steps between stored states
PADDED = 16  # stored states are padded to a multiple of this many channels
GROUP = 128  # channels of one task
WORK_PER_THREAD = 250_000  # channel-states below which one more thread costs more than it brings
_SIZES = ("n_batch", "n_time", "n_channels", "n_states", "n_threads")
_POINTERS = (
    *("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0"),
    *("y", "h_last", "starts", "grad_y", "grad_h_last"),
    *("grad_x", "grad_dt", "grad_A", "grad_B", "grad_C", "grad_D"),
    *("grad_z", "grad_dt_bias", "grad_h0"),
    *("part_B", "part_C", "part_A", "part_D", "part_dt_bias"),
)


class _ScanArgs(ctypes.Structure):
    """The kernel's `ScanArgs`, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in _SIZES] + [
        (name, ctypes.c_void_p) for name in _POINTERS
    ]


_LAYOUT = ((CHUNK * 1000 + PADDED) * 1000 + GROUP) * 1000 + ctypes.sizeof(_ScanArgs)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_last)` of the scan; equation and shapes as in `hymba_lab.ops.scan`."""
    required, optional = (x, dt, A, B, C, D), (z, dt_bias, h0)
    # states inside the sequence are only worth their memory when a backward will read them
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (*required, *optional)
    )
    inputs = [tensor.float() for tensor in required]
    extras = [None if tensor is None else tensor.float() for tensor in optional]
    y, h_last, _ = torch.ops.hymba_lab.selective_scan(*inputs, *extras, keep)
    return y.to(x.dtype), h_last


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h)` after one token; not differentiable."""
    ready = _ready(x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, h0=h)
    y, h_next = torch.empty(x.shape), torch.empty(h.shape)
    _call("hymba_scan_step", (x.shape[0], 1, x.shape[1], A.shape[1]), **ready, y=y, h_last=h_next)
    return y.to(x.dtype), h_next


# ------------------------------------------------------------------ library


@cache
def variant() -> str:
    """The build for this processor: x86-64-v4 (AVX-512), x86-64-v3 (AVX2) or the plain one."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "plain"
    return {"AVX512": "v4", "AVX2": "v3"}.get(torch.backends.cpu.get_cpu_capability(), "plain")


@cache
def missing() -> str | None:
    """Why the kernel cannot run here and what to do about it; None when it can."""
    path = Path(__file__).with_name(f"_scan_{variant()}.so")
    if not path.exists():
        return (
            f"{path.name} was not built; install a C++17 compiler (g++ or clang) and run "
            "`pip install .` or `python setup.py build_ext --inplace` again"
        )
    try:
        library = ctypes.CDLL(str(path))
        library.hymba_scan_layout.restype = ctypes.c_int64
        layout = library.hymba_scan_layout()
    except (OSError, AttributeError) as error:
        return f"{path.name} does not load ({error}); build it again on this machine"
    if layout != _LAYOUT:
        return f"{path.name} is of another version; run `python setup.py build_ext --inplace`"
    return None


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(__file__).with_name(f"_scan_{variant()}.so")))


def _ready(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    """The tensors as the kernel reads them: float32, dense."""
    return {
        name: None if tensor is None else tensor.float().contiguous()
        for name, tensor in tensors.items()
    }


def _call(function: str, shape: tuple[int, int, int, int], **tensors: Tensor | None) -> None:
    n_batch, n_time, n_channels, n_states = shape
    work = n_batch * n_time * n_channels * n_states
    threads = max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))
    pointers = {
        name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()
    }
    args = _ScanArgs(*shape, threads, **pointers)
    _library()[function](ctypes.byref(args))


# ------------------------------------------------------------------ operators


@torch.library.custom_op("hymba_lab::selective_scan", mutates_args=(), device_types="cpu")
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h_last, starts): starts (B, chunks, padded D, N), the state before each chunk."""
    ready = _ready(x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, h0=h0)
    y, h_last, starts = _scan_shapes(x, dt, A, B, C, D, z, dt_bias, h0, keep)
    kept = starts if keep else None
    _call("hymba_scan_forward", (*x.shape, A.shape[1]), **ready, y=y, h_last=h_last, starts=kept)
    return y, h_last, starts


@_scan.register_fake
def _scan_shapes(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n_batch, n_time, n_channels = x.shape
    n_states = A.shape[1]
    chunks = -(-n_time // CHUNK) if keep else 0
    padded = -(-n_channels // PADDED) * PADDED
    return (
        x.new_empty(n_batch, n_time, n_channels),
        x.new_empty(n_batch, n_channels, n_states),
        x.new_empty(n_batch, chunks, padded, n_states),
    )


@torch.library.custom_op("hymba_lab::selective_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    grad_y: Tensor,
    grad_h_last: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    starts: Tensor,
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias, h0; empty for an input that was None."""
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0")
    inputs = dict(zip(names, (x, dt, A, B, C, D, z, dt_bias, h0), strict=True))
    incoming = dict(grad_y=grad_y, grad_h_last=grad_h_last, starts=starts)
    grads: list[Tensor] = _grad_shapes(
        grad_y, grad_h_last, x, dt, A, B, C, D, z, dt_bias, h0, starts
    )
    outgoing = {
        f"grad_{name}": None if inputs[name] is None else grad
        for name, grad in zip(names, grads, strict=True)
    }
    n_batch, _, n_channels = x.shape
    groups = -(-n_channels // GROUP)
    parts = {
        "part_B": x.new_empty(groups, *B.shape),
        "part_C": x.new_empty(groups, *C.shape),
        "part_A": x.new_empty(n_batch, *A.shape),
        "part_D": x.new_empty(n_batch, n_channels),
        "part_dt_bias": x.new_empty(n_batch, n_channels),
    }
    ready = _ready(**inputs, **incoming)
    _call("hymba_scan_backward", (*x.shape, A.shape[1]), **ready, **outgoing, **parts)
    return grads


@_scan_backward.register_fake
def _grad_shapes(
    grad_y: Tensor,
    grad_h_last: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    starts: Tensor,
) -> list[Tensor]:
    return [
        x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (x, dt, A, B, C, D, z, dt_bias, h0)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _differentiate(
    ctx: Any, grad_y: Tensor, grad_h_last: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = torch.ops.hymba_lab.selective_scan_backward(grad_y, grad_h_last, *saved)
    inputs = saved[:-1]
    return *(g if t is not None else None for t, g in zip(inputs, grads, strict=True)), None


_scan.register_autograd(_differentiate, setup_context=_save)
