"""Windowed attention on the CPU through the compiled kernel (`csrc/windowed_attention.cpp`).

It computes only the pairs that are seen, takes values wider than keys as they are, and keeps the
norm of each query's softmax for a backward that computes the weights again.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import kernels
from hymba_lab.ops.flops import visible_pairs
from hymba_lab.ops.masks import outlives

WIDTHS = 8  # keys and values are a multiple of this wide
TYPES = (torch.float32, torch.bfloat16)  # the kernel computes in float32
WORK_PER_THREAD = 400_000  # multiply-adds below which one more thread costs more than it brings


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes q (B, H, T, P), k (B, K, T, P) and v (B, K, T, V)."""
    cpu = all(t.is_cpu and t.dtype in TYPES and outlives(t) for t in (q, k, v))
    widths = q.shape[3] % WIDTHS == 0 and v.shape[3] % WIDTHS == 0
    same = q.shape[2] == k.shape[2] and min(q.numel(), v.numel()) > 0
    return cpu and widths and same


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None,
    n_meta: int,
    sink: Tensor | None = None,
) -> Tensor:
    """Return what `attention` returns for q_start = 0 and T = S; `fits` tells for which tensors."""
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        q, k, v, window, n_meta, sink
    )
    return out


class _Attention(torch.autograd.Function):
    """out = softmax(q k^T / sqrt(P)) v over the visible keys.

    A sink of logit b needs no kernel of its own: it adds e^b to the norm of a query's weights, so
    that out falls by e^(norm before - norm after). The backward reads nothing but out and norm, and
    db = -sum_i (weight of the sink)_i d_out_i . out_i.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int | None,
        n_meta: int,
        sink: Tensor | None,
    ) -> Tensor:
        given = {"q": _ready(q), "k": _ready(k), "v": _ready(v)}
        out, norm = _heads((*q.shape[:3], v.shape[3])), torch.empty(q.shape[:3])
        _call("hymba_attention", (window, n_meta), **given, out=out, norm=norm)
        if sink is not None:
            whole = torch.logaddexp2(norm, _log2(sink))
            out.mul_((norm - whole).exp2_().unsqueeze(3))
            norm = whole
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, norm, sink)
        ctx.seen = window, n_meta
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, norm, sink = ctx.saved_tensors
        dq, dk, dv = (_heads(t.shape).zero_() for t in (q, k, v))
        tensors = {"q": q, "k": k, "v": v, "out": out, "d_out": d_out}
        given = {name: _ready(tensor) for name, tensor in tensors.items()}
        given |= {"norm": norm, "delta": torch.empty_like(norm), "dq": dq, "dk": dk, "dv": dv}
        _call("hymba_attention_backward", ctx.seen, **given)
        d_sink = None
        if sink is not None and ctx.needs_input_grad[5]:
            weight = (_log2(sink) - norm).exp2_()
            d_sink = (weight * given["delta"]).sum((0, 2)).neg_().to(sink.dtype)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, d_sink


def _log2(sink: Tensor) -> Tensor:
    """The logit (H,) as a power of two, beside norms (B, H, T)."""
    return (sink.float() * math.log2(math.e)).unsqueeze(1)


class _Heads(ctypes.Structure):
    """The kernel's `Heads`, field by field."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row", "head", "token")),
    ]


_SIZES = ("n_rows", "n_heads", "n_kv_heads", "n_tokens", "d_key", "d_value", "n_meta", "n_threads")


class _Args(ctypes.Structure):
    """The kernel's `AttentionArgs`, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in (*_SIZES, "window")),
        *((name, _Heads) for name in ("q", "k", "v", "out", "d_out", "dq", "dk", "dv")),
        *((name, ctypes.c_void_p) for name in ("norm", "delta")),
        ("scale", ctypes.c_double),
    ]


def _ready(tensor: Tensor) -> Tensor:
    tensor = tensor.float()
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()


def _heads(shape: Sequence[int]) -> Tensor:
    """Empty (B, H, T, W) in the order of memory in which heads join to one row without a copy."""
    n_rows, n_heads, n_tokens, width = shape
    return torch.empty(n_rows, n_tokens, n_heads, width).transpose(1, 2)


def _call(function: str, seen: tuple[int | None, int], **tensors: Tensor) -> None:
    q, k, v = (tensors[name] for name in "qkv")
    (n_rows, n_heads, n_tokens, d_key), d_value = q.shape, v.shape[3]
    window, n_meta = seen
    pairs = visible_pairs(n_tokens, n_tokens, window, n_meta, 0)
    work = n_rows * n_heads * pairs * (d_key + d_value)
    threads = max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))
    window = n_tokens if window is None else min(window, n_tokens)
    places: dict[str, Any] = {
        name: _Heads(tensor.data_ptr(), *tensor.stride()[:3]) if tensor.ndim == 4
        else tensor.data_ptr()
        for name, tensor in tensors.items()
    }  # fmt: skip
    args = _Args(n_rows, n_heads, k.shape[1], n_tokens, d_key, d_value, n_meta, threads,
                 window=window, scale=d_key**-0.5, **places)  # fmt: skip
    kernels.run(function, args)
