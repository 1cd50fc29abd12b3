"""The gate of a SwiGLU MLP, compiled where it can be."""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import kernels, triton_device
from hymba_lab.ops.masks import outlives
from hymba_lab.ops.selection import Implementation, Operation

WORK_PER_THREAD = 100_000  # elements below which one more thread costs more than it brings


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, element by element, of two tensors of one shape.

    On the meta device only the shape is computed, and what would be kept for the backward is kept.
    """
    y: Tensor = SWIGLU.run(gate, up)(gate, up)
    return y


def _plain(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def _triton(gate: Tensor, up: Tensor) -> Tensor:
    from hymba_lab.ops.swiglu_triton import SwiGLU  # needs triton

    y: Tensor = SwiGLU.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


def _compiled_takes(gate: Tensor, up: Tensor) -> bool:
    fits = all(t.dtype == torch.float32 and outlives(t) for t in (gate, up))
    fits = fits and (gate.is_cpu or gate.is_meta) and gate.shape == up.shape
    return fits and gate.numel() > 0


class _Compiled(torch.autograd.Function):
    """By `csrc/pointwise.cpp`; only the inputs are kept.

    d_up = dy silu(gate);  d_gate = dy up (s + gate s (1 - s)),  s = sigmoid(gate).
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        _call("hymba_swiglu", gate=gate, up=up, y=y)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(gate)
        dy = dy.contiguous()
        _call("hymba_swiglu_backward", gate=gate, up=up, dy=dy, d_gate=d_gate, d_up=d_up)
        return d_gate, d_up


class _Args(ctypes.Structure):
    """The kernel's `SwigluArgs`, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("gate", "up", "dy", "y", "d_gate", "d_up")),
    ]


def _call(function: str, **tensors: Tensor) -> None:
    if tensors["gate"].is_meta:
        return
    n = tensors["gate"].numel()
    threads = max(1, min(torch.get_num_threads(), n // WORK_PER_THREAD))
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    kernels.run(function, _Args(n, threads, **places))


SWIGLU = Operation(
    "swiglu",
    "SwiGLU",
    "HYMBA_LAB_SWIGLU",
    {
        "cpp": Implementation(
            _Compiled.apply,
            "the compiled C++ kernel",
            "float32 on a CPU",
            kernels.missing,
            _compiled_takes,
            devices=("cpu",),
        ),
        "triton": Implementation(
            _triton,
            "the Triton kernel",
            f"{triton_device.LARGE}, both of one type",
            triton_device.missing,
            lambda gate, up: triton_device.worth_it(gate) and gate.dtype == up.dtype,
            devices=("cuda",),
        ),
        "torch": Implementation(_plain, "plain torch"),
    },
)
