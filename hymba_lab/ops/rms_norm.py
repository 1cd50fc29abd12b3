"""RMSNorm with a backward of its own: compiled, else half the passes that torch composes."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import kernels, one_token, triton_device
from hymba_lab.ops.selection import Implementation, Operation

NARROW = 16  # channels below which lanes stay empty and the composed form is faster
WORK_PER_THREAD = 200_000  # elements below which one more thread costs more than it brings


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last axis, (..., D) for weight (D,).

    The weight may be more precise than x. Under autocast torch's own form on a GPU gives float32,
    the Triton kernel what matrix products would read.
    """
    if x.ndim == 3 and x.shape[1] == 1 and one_token.fits(x, weight):
        return one_token.norm(x, weight, eps)
    if x.is_meta and not torch.is_grad_enabled():  # no FLOPs are counted here: the shape is all
        return x.new_empty(x.shape)
    low = x.is_meta and x.itemsize == 2
    form: Callable[..., Tensor] = _ShapeOnly.apply if low else RMS_NORM.run(x, weight)
    y: Tensor = form(x, weight, eps)
    return y


class _ShapeOnly(torch.autograd.Function):
    """Keeps what torch's kernel for a GPU keeps in 16 bits: x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, w, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x.new_empty(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(w), None


def _plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def _triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from hymba_lab.ops.rms_norm_triton import RMSNorm  # needs triton

    kind = x.device.type
    low = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    y: Tensor = RMSNorm.apply(x, weight, eps, low or x.dtype)  # type: ignore[no-untyped-call]
    return y


def _ours(x: Tensor, weight: Tensor) -> bool:
    single = x.is_cpu and x.dtype == weight.dtype == torch.float32
    return single and not torch.compiler.is_compiling()


class _Composed(torch.autograd.Function):
    """With r = (mean(x^2) + eps)^-1/2 and n = r x:  y = n w.

    dw = sum_rows dy n;  dx = r (dy w - n mean(dy n w)). Only n and r are kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        n = x * r
        ctx.save_for_backward(n, r, w)
        y: Tensor = n * w
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        n, r, w = ctx.saved_tensors
        dy_n = dy * n
        dw = dy_n.flatten(0, -2).sum(0)
        mean = (dy_n @ w).div_(w.shape[0]).unsqueeze(-1)
        return torch.addcmul(dy * w, n, mean, value=-1).mul_(r), dw, None


class _Compiled(torch.autograd.Function):
    """The same by `csrc/rms_norm.cpp`; x and r are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        rows = kernels.dense_rows(x) if x.ndim == 3 else x.contiguous()
        assert rows is not None
        y, r = torch.empty(x.shape), torch.empty(x.shape[:-1])
        w = w.contiguous()
        _call("hymba_rms_norm", rows, eps, w=w, y=y, r=r)
        ctx.save_for_backward(rows, r, w)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, r, w = ctx.saved_tensors
        dx = torch.empty(rows.shape)
        n_tasks = -(-r.numel() // kernels.constant("hymba_rms_norm_task_rows"))
        part = torch.zeros(n_tasks, len(w))
        dy = dy.contiguous()
        _call("hymba_rms_norm_backward", rows, 0.0, w=w, r=r, dy=dy, dx=dx, part=part)
        return dx, part.sum(0), None


class _Args(ctypes.Structure):
    """The kernel's `NormArgs`, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "width", "x_stride", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "dy", "y", "r", "dx", "part")),
        ("eps", ctypes.c_double),
    ]


def _call(function: str, x: Tensor, eps: float, **tensors: Tensor) -> None:
    width = x.shape[-1]
    stride = width if x.is_contiguous() else x.stride(-2)
    threads = max(1, min(torch.get_num_threads(), x.numel() // WORK_PER_THREAD))
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    n_rows = x.numel() // max(width, 1)
    args = _Args(n_rows, width, stride, threads, x=x.data_ptr(), eps=eps, **places)
    kernels.run(function, args)


RMS_NORM = Operation(
    "rms_norm",
    "RMSNorm",
    "HYMBA_LAB_RMS_NORM",
    {
        "cpp": Implementation(
            _Compiled.apply,
            "the compiled C++ kernel",
            f"float32 on a CPU, {NARROW} channels at least",
            kernels.missing,
            lambda x, weight: _ours(x, weight) and x.shape[-1] >= NARROW,
            devices=("cpu",),
        ),
        "composed": Implementation(
            _Composed.apply,
            "torch with a backward of our own",
            "float32 on a CPU",
            takes=_ours,
            devices=("cpu",),
        ),
        "triton": Implementation(
            _triton,
            "the Triton kernel",
            triton_device.LARGE,
            triton_device.missing,
            lambda x, weight: triton_device.worth_it(x),
            devices=("cuda",),
        ),
        "torch": Implementation(_plain, "plain torch"),
    },
)
