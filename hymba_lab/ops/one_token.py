"""Decoding's small operations on one token of each row, compiled (`csrc/one_token.cpp`).

A decoding step of a small batch reads every weight once and else does little on many tensors, so
that the overhead of torch's operators shows. These calls make no graph: `fits` says where they may
stand in for torch, and the functions of `hymba_lab.ops` decide. States change in place.
"""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor, nn

from hymba_lab.ops import kernels

_IS_BFLOAT16 = {torch.float32: 0, torch.bfloat16: 1}
_PLAIN = (Tensor, nn.Parameter)  # a subclass may have no memory of its own


class _Step(ctypes.Structure):
    """The kernel's `StepArgs`, field by field."""

    _fields_ = [(name, c_int64) for name in ("n_rows", "n_channels", "n_states")] + [
        (name, c_void_p)
        for name in ("x", "dt", "B", "C", "skip", "z", "dt_bias", "A", "before", "after", "y")
    ]


class _Attend(ctypes.Structure):
    """The kernel's `AttendArgs`, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("n_rows", "n_heads", "n_kv_heads", "d_key", "d_value")),
        *((f"{tensor}_{size}", c_int64) for tensor in "kv" for size in ("row", "head", "token")),
        *((name, c_void_p) for name in ("n_keys", "q", "k", "v", "out")),
        ("scale", c_double),
    ]


_ARGUMENTS = {
    "norm": [*[c_int64] * 4, c_void_p, c_void_p, c_double, c_void_p],
    "conv_step": [*[c_int64] * 5, *[c_void_p] * 5],
    "rotate": [*[c_int64] * 5, *[c_void_p] * 4],
    "decay": [*[c_int64] * 3, c_void_p, c_void_p],
    "scan_step": [c_int64, c_int64, ctypes.POINTER(_Step)],
    "attend": [c_int64, c_int64, ctypes.POINTER(_Attend)],
}


@cache
def _library(name: str) -> ctypes.CDLL:
    library = kernels.library(name)
    for name, types in _ARGUMENTS.items():
        function = getattr(library, f"hymba_{name}")
        function.argtypes, function.restype = types, None
    return library


def fits(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the compiled form takes these tensors and may.

    Plain ones on a CPU, all float32 or all bfloat16, while no gradient and no graph is asked for.
    """
    dtype = first.dtype
    if dtype not in _IS_BFLOAT16 or torch.is_grad_enabled():
        return False
    for tensor in (first, *others):
        if tensor is None:
            continue
        if tensor.dtype is not dtype or not tensor.is_cpu or type(tensor) not in _PLAIN:
            return False
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return not traced and kernels.missing() is None


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight of rows x (B, 1, W)."""
    x = x if x.stride(2) == 1 else x.contiguous()
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    kind, (n_rows, _, width) = _IS_BFLOAT16[x.dtype], x.shape
    place = weight.contiguous().data_ptr()
    _library(kernels.variant()).hymba_norm(
        kind, n_rows, width, x.stride(0), x.data_ptr(), place, eps, y.data_ptr()
    )
    return y


def conv_step(x: Tensor, weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """Return SiLU(bias + sum_k weight_k input_k) (B, D) of the inputs kept (B, K-1, D) and x.

    x becomes the newest of the inputs.
    """
    assert inputs.is_contiguous()
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    y = torch.empty_like(x)
    _library(kernels.variant()).hymba_conv_step(
        _IS_BFLOAT16[x.dtype], torch.get_num_threads(), *x.shape, weight.shape[1], x.data_ptr(),
        weight.data_ptr(), bias.data_ptr(), inputs.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x cos + roll(x) sin of heads x (B, H, 1, P), roll by P/2; cos, sin (..., P) float32.

    One row of cos and sin serves all rows of x, or each its own.
    """
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    y, (n_rows, n_heads, _, width) = torch.empty_like(x), x.shape
    stride = 0 if cos.numel() == width else width
    _library(kernels.variant()).hymba_rotate(
        _IS_BFLOAT16[x.dtype], n_rows, n_heads, width, stride, x.data_ptr(), cos.data_ptr(),
        sin.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    return y


def decay(A_log: Tensor) -> Tensor:
    """Return A = -exp(A_log), float32."""
    A, A_log = torch.empty(A_log.shape), A_log.contiguous()
    _library(kernels.variant()).hymba_decay(
        _IS_BFLOAT16[A_log.dtype],
        torch.get_num_threads(),
        A.numel(),
        A_log.data_ptr(),
        A.data_ptr(),
    )
    return A


def scan_step(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    A: Tensor,
    h: Tensor,
    out: Tensor,
) -> Tensor:
    """Return y (B, D) after one token; the state goes to `out` (B, D, N), which may be h."""
    assert out.is_contiguous() and out.dtype == torch.float32
    A, h = A.float().contiguous(), h.float().contiguous()
    dense = [None if t is None else t.contiguous() for t in (x, dt, B, C, D, z, dt_bias)]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    places = [None if t is None else t.data_ptr() for t in (*dense, A, h, out, y)]
    arguments = _Step(*x.shape, A.shape[1], *places)
    kind, n_threads = _IS_BFLOAT16[x.dtype], torch.get_num_threads()
    _library(kernels.variant()).hymba_scan_step(kind, n_threads, arguments)
    return y


def attend(q: Tensor, k: Tensor, v: Tensor, n_keys: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(P)) v (B, H, 1, V) of q (B, H, 1, P) over n_keys (B,) keys.

    k (B, K, S, P) and v (B, K, S, V) may be parts of larger buffers; n_keys is int64, at most S.
    """
    n_rows, n_heads, _, d_key = q.shape
    n_kv_heads, d_value = k.shape[1], v.shape[3]
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q.contiguous(), k, v))
    out = torch.empty((n_rows, n_heads, 1, d_value), dtype=q.dtype)
    tensors = (n_keys.contiguous(), q, k, v, out)
    arguments = _Attend(
        *(n_rows, n_heads, n_kv_heads, d_key, d_value, *k.stride()[:3], *v.stride()[:3]),
        *(tensor.data_ptr() for tensor in tensors),
        d_key**-0.5,
    )
    kind, n_threads = _IS_BFLOAT16[q.dtype], torch.get_num_threads()
    _library(kernels.variant()).hymba_attend(kind, n_threads, arguments)
    return out
