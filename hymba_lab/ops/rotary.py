"""Rotary positions (RoPE, arXiv:2104.09864) in the rotate-half layout."""

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import kernels, one_token, triton_device
from hymba_lab.ops.masks import outlives
from hymba_lab.ops.selection import Implementation, Operation

WORK_PER_THREAD = 100_000  # elements below which one more thread costs more than it brings


def rotate(x: Tensor, positions: Tensor | range, theta: float) -> Tensor:
    """Turn channel pair i of x (B, H, T, P), that is (i, i + P/2), by position * theta^(-2i/P).

    `positions` broadcast over (B, H, T); a range is for many calls, its angles are kept.
    """
    make = _kept_table if isinstance(positions, range) and outlives(x) else rope_table
    cos, sin = make(positions, x.shape[-1], theta, x.device)
    if x.shape[2] == 1 and one_token.fits(x):
        return one_token.rotate(x, cos, sin)
    y: Tensor = ROTATION.run(x, cos)(x, cos, sin)
    return y


def _plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def _triton(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    from hymba_lab.ops.rotary_triton import Rotation  # needs triton

    y: Tensor = Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


def _compiled_takes(x: Tensor, cos: Tensor) -> bool:
    fits = (
        cos.ndim == 2 and x.is_cpu and x.dtype == torch.float32 and x.stride(3) == 1 and outlives(x)
    )
    return fits and x.numel() > 0


class _Compiled(torch.autograd.Function):
    """In one pass, by `csrc/pointwise.cpp`; the backward turns the gradient back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        dy = dy if dy.stride(3) == 1 else dy.contiguous()
        return _turn(dy, cos, sin, -1.0), None, None


class _Args(ctypes.Structure):
    """The kernel's `RotateArgs`, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_rows", "n_heads", "n_tokens", "half")),
        *((name, ctypes.c_int64) for name in ("n_threads", "row", "head", "token")),
        *((name, ctypes.c_void_p) for name in ("x", "cos", "sin", "y")),
        ("sign", ctypes.c_double),
    ]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x (B, H, T, P) by cos, sin (T, P); the heads of a token lie together in the result."""
    n_rows, n_heads, n_tokens, width = x.shape
    y = torch.empty(n_rows, n_tokens, n_heads, width)
    threads = max(1, min(torch.get_num_threads(), x.numel() // WORK_PER_THREAD))
    places = {"x": x.data_ptr(), "cos": cos.data_ptr(), "sin": sin.data_ptr(), "y": y.data_ptr()}
    sizes = (n_rows, n_heads, n_tokens, width // 2, threads, *x.stride()[:3])
    kernels.run("hymba_rotate_all", _Args(*sizes, **places, sign=sign))
    return y.transpose(1, 2)


def rope_table(
    positions: Tensor | range, d_head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the angles at positions (...), each (..., d_head).

    Sin is negative in its first half: x rolled by half its width then needs no sign of its own.
    """
    if isinstance(positions, range):
        positions = torch.arange(positions.start, positions.stop, device=device)
    pairs = torch.arange(0, d_head, 2, device=device, dtype=torch.float32)
    angle = positions.float()[..., None] * theta ** (-pairs / d_head)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


@lru_cache(maxsize=8)
def _kept_table(
    positions: range, d_head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a later training step may save it for its backward
        return rope_table(positions, d_head, theta, device)


ROTATION = Operation(
    "rotation",
    "rotation (RoPE)",
    "HYMBA_LAB_ROTATION",
    {
        "cpp": Implementation(
            _Compiled.apply,
            "the compiled C++ kernel",
            "float32 on a CPU, the same positions for all rows",
            kernels.missing,
            _compiled_takes,
            devices=("cpu",),
        ),
        "triton": Implementation(
            _triton,
            "the Triton kernel",
            f"{triton_device.LARGE}, the same positions for all rows",
            triton_device.missing,
            lambda x, cos: triton_device.worth_it(x) and cos.ndim == 2,
            devices=("cuda",),
        ),
        "torch": Implementation(_plain, "plain torch"),
    },
)
