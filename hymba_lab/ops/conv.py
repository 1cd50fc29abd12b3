"""Depthwise causal convolution with SiLU, the short filter in front of the scan."""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import kernels, one_token, triton_device
from hymba_lab.ops.masks import outlives
from hymba_lab.ops.selection import Implementation, Operation

MOST_TAPS = 8  # of the kernel
WORK_PER_THREAD = 100_000  # elements below which one more thread costs more than it brings


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    silu: bool = True,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, state)`: y_t = SiLU(bias + sum_k weight_k x_{t-K+1+k}), and the last K-1 inputs.

    x, y (B, T, D); weight (D, K); bias (D,) or None; state (B, K-1, D), the inputs before x (zeros
    when None). Without `silu` the sum itself. Feeding the returned state to the next call continues
    the sequence. B batch, T time, D channels, K filter length [tokens].
    """
    y: Tensor
    y, after = CAUSAL_CONV.run(x, weight, bias, silu, state)(x, weight, bias, silu, state)
    return y, after


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    before = weight.shape[1] - 1
    padded = F.pad(x, (0, 0, before, 0)) if state is None else torch.cat((state.to(x), x), dim=1)
    # a copy: a view would keep the whole padded sequence alive in a decoding cache
    y = _depthwise(padded, weight, bias)
    return F.silu(y) if silu else y, padded[:, x.shape[1] :].clone()


def _triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: None
) -> tuple[Tensor, Tensor]:
    from hymba_lab.ops.conv_triton import CausalConv  # needs triton

    y: Tensor = CausalConv.apply(x, weight, bias, silu)  # type: ignore[no-untyped-call]
    return y, _last(x, weight.shape[1] - 1)


def causal_conv_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool = True, state: Tensor
) -> Tensor:
    """Return y (B, D) after one token x (B, D); it becomes the newest input of `state` in place."""
    compiled = silu and bias is not None and one_token.fits(x, weight, bias, state)
    if compiled and bias is not None and state.is_contiguous():
        return one_token.conv_step(x, weight, bias, state)
    seen = torch.cat([state, x.unsqueeze(1)], dim=1)
    state.copy_(seen[:, 1:])
    # one output is a weighted sum, without a convolution's preparations
    exact = torch.promote_types(x.dtype, torch.float32)
    y = (seen * weight.t()).sum(1, dtype=exact)
    y = y if bias is None else y + bias
    return (F.silu(y) if silu else y).to(x.dtype)


def _depthwise(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, T + K - 1, D) -> (B, T, D), each channel filtered by itself."""
    channels_first = padded.transpose(1, 2)
    groups = padded.shape[2]
    if not padded.is_cpu:
        return F.conv1d(channels_first, weight.unsqueeze(1), bias, groups=groups).transpose(1, 2)
    # as an image of height 1 the layout (B, T, D) is "channels last", which the CPU kernel takes
    # without transposing: two to three times as fast
    image, filters = channels_first.unsqueeze(2), weight[:, None, None, :]
    return F.conv2d(image, filters, bias, groups=groups).squeeze(2).transpose(1, 2)


def _last(x: Tensor, n: int) -> Tensor:
    """The last n inputs (B, n, D) as a copy, zeros before the first."""
    kept = min(n, x.shape[1])
    return F.pad(x[:, x.shape[1] - kept :], (0, 0, n - kept, 0)).clone()


def _compiled_takes(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, state: Tensor | None
) -> bool:
    """Whether the kernel is made for these, and nothing traces."""
    if state is not None or bias is None or not silu:
        return False
    fits = x.is_cpu and x.dtype == weight.dtype == bias.dtype == torch.float32
    fits = fits and x.numel() > 0 and weight.shape[1] <= MOST_TAPS and outlives(x)
    return fits and not torch.is_autocast_enabled("cpu")


def _compiled(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool, state: None
) -> tuple[Tensor, Tensor]:
    y: Tensor = _Compiled.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y, _last(x, weight.shape[1] - 1)


class _Compiled(torch.autograd.Function):
    """From the zero state, by `csrc/causal_conv.cpp`; only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = kernels.dense_rows(x)
        assert rows is not None
        taps, y, bias = weight.t().contiguous(), torch.empty(x.shape), bias.contiguous()
        _call("hymba_conv", rows, taps, b=bias, y=y)
        ctx.save_for_backward(rows, taps, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, taps, bias = ctx.saved_tensors
        dx, dy = torch.empty(rows.shape), dy.contiguous()
        steps = kernels.constant("hymba_conv_task_steps")
        n_tasks = rows.shape[0] * -(-rows.shape[1] // steps)
        part = torch.zeros(n_tasks, len(taps) + 1, rows.shape[2])
        _call("hymba_conv_backward", rows, taps, b=bias, dy=dy, dx=dx, part=part)
        sums = part.sum(0)
        return dx, sums[:-1].t(), sums[-1]


class _Args(ctypes.Structure):
    """The kernel's `ConvArgs`, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_batch", "n_time", "n_channels", "n_taps")),
        *((name, ctypes.c_int64) for name in ("x_stride", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "b", "dy", "y", "dx", "part")),
    ]


def _call(function: str, x: Tensor, taps: Tensor, **tensors: Tensor) -> None:
    n_batch, n_time, n_channels = x.shape
    stride = n_channels if x.is_contiguous() else x.stride(-2)
    threads = max(1, min(torch.get_num_threads(), x.numel() // WORK_PER_THREAD))
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    args = _Args(n_batch, n_time, n_channels, len(taps), stride, threads,
                 x=x.data_ptr(), w=taps.data_ptr(), **places)  # fmt: skip
    kernels.run(function, args)


CAUSAL_CONV = Operation(
    "causal_conv",
    "causal convolution",
    "HYMBA_LAB_CONV",
    {
        "cpp": Implementation(
            _compiled,
            "the compiled C++ kernel",
            f"float32 on a CPU from the zero state, with bias and SiLU, {MOST_TAPS} taps at most",
            kernels.missing,
            _compiled_takes,
            devices=("cpu",),
        ),
        "triton": Implementation(
            _triton,
            "the Triton kernel",
            f"{triton_device.LARGE} from the zero state",
            triton_device.missing,
            lambda x, weight, bias, silu, state: state is None and triton_device.worth_it(x),
            devices=("cuda",),
        ),
        "torch": Implementation(_plain, "plain torch"),
    },
)
