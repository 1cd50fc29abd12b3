"""Selective scan on the CPU through the compiled kernel, as torch operators.

Autograd and `torch.compile(fullgraph=True)` see one opaque operation with a known shape and a
known backward; on the meta device the shape is all there is.
"""

import ctypes

import torch
from torch import Tensor

from hymba_lab.ops import kernels
from hymba_lab.ops.kernels import dense, dense_rows
from hymba_lab.ops.scan_gradient import attach, gradient_shapes

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


class ScanArgs(ctypes.Structure):
    """The kernel's `ScanArgs`, field by field."""

    _fields_ = [(name, ctypes.c_int64) for name in _SIZES] + [
        (name, ctypes.c_void_p) for name in _POINTERS
    ]


kernels.expect(
    "hymba_scan_layout",
    ((CHUNK * 1000 + PADDED) * 1000 + GROUP) * 1000 + ctypes.sizeof(ScanArgs),
)


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


_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0")


def _ready(inputs: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    """The scan's inputs under the kernel's names; z may be a slice of wider rows."""
    return {
        name: dense_rows(tensor) if name == "z" else dense(tensor)
        for name, tensor in zip(_NAMES, inputs, strict=True)
    }


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
    ready = _ready((x, dt, A, B, C, D, z, dt_bias, h0))
    y, h_last, starts = _scan_shapes(x, dt, A, B, C, D, z, dt_bias, h0, keep)
    ready |= {"y": y, "h_last": h_last, "starts": starts if keep else None}
    _call("forward", (*x.shape, A.shape[1]), **ready)
    return y, h_last, starts


@_scan.register_fake
def _scan_shapes(
    x: Tensor, dt: Tensor, A: Tensor, *others: Tensor | bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    keep = others[-1]
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
    inputs = (x, dt, A, B, C, D, z, dt_bias, h0)
    grads: list[Tensor] = gradient_shapes(grad_y, grad_h_last, *inputs, starts)
    outgoing = {
        f"grad_{name}": None if tensor is None else grad
        for name, tensor, grad in zip(_NAMES, inputs, grads, strict=True)
    }
    groups = -(-x.shape[2] // GROUP)
    parts = {
        "part_B": x.new_empty(groups, *B.shape),
        "part_C": x.new_empty(groups, *C.shape),
        "part_A": x.new_empty(x.shape[0], *A.shape),
        "part_D": x.new_empty(x.shape[0], x.shape[2]),
        "part_dt_bias": x.new_empty(x.shape[0], x.shape[2]),
    }
    ready = _ready(inputs) | {"grad_y": dense(grad_y), "grad_h_last": dense(grad_h_last)}
    _call("backward", (*x.shape, A.shape[1]), **ready, **outgoing, **parts, starts=starts)
    return grads


_scan_backward.register_fake(gradient_shapes)
attach(_scan, torch.ops.hymba_lab.selective_scan_backward)


def _token_stride(z: Tensor | None) -> int:
    """Floats from one token of z to the next; the stride of a dimension of size 1 says nothing."""
    if z is None:
        return 0
    return z.shape[-1] if z.is_contiguous() else z.stride(-2)


def _call(function: str, shape: tuple[int, int, int, int], **tensors: Tensor | None) -> None:
    """Run `hymba_scan_<function>` over shape (B, T, D, N); the tensors are fields of `ScanArgs`."""
    n_batch, n_time, n_channels, n_states = shape
    work = n_batch * n_time * n_channels * n_states
    threads = max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))
    z_stride = _token_stride(tensors.get("z"))
    pointers = {
        name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()
    }
    args = ScanArgs(*shape, threads, z_stride, **pointers)
    kernels.run(f"hymba_scan_{function}", args)
