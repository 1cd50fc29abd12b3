"""The selective scan of Mamba (arXiv:2312.00752, algorithm 2) over whole sequences and one token.

    delta_t = softplus(dt_t + dt_bias)
    h_t     = exp(delta_t A) h_{t-1} + delta_t x_t B_t
    y_t     = C_t h_t + D x_t,  times SiLU(z_t) if z is given

x, dt, z (B, T, D); A (D, N), negative; B, C (B, T, N); D, dt_bias (D,); h (B, D, N);
B batch, T time, D channels, N states a channel. The scan computes in float32 whatever the inputs,
in float64 where x is float64; y has the dtype of x, the state the dtype of the computation.
"""

import torch
from torch import Tensor

from hymba_lab.ops import (
    kernels,
    one_token,
    scan_cpp,
    scan_cuda,
    scan_torch,
    scan_triton,
    triton_device,
)
from hymba_lab.ops.selection import Implementation, Operation

SCAN = Operation(
    "selective_scan",
    "selective scan",
    "HYMBA_LAB_SCAN",
    {
        "triton": Implementation(
            scan_triton.selective_scan,
            "Triton kernels of our own",
            "CUDA tensors, float32 or 16 bits",
            triton_device.missing,
            lambda x, h0: triton_device.takes(x),
            devices=("cuda",),
        ),
        "cuda": Implementation(
            scan_cuda.selective_scan,
            "mamba-ssm's CUDA kernel",
            "CUDA tensors, float32 or 16 bits, without an initial state",
            scan_cuda.missing,
            lambda x, h0: x.is_cuda and x.dtype != torch.float64 and h0 is None,
            devices=("cuda",),
        ),
        "cpp": Implementation(
            scan_cpp.selective_scan,
            "the compiled C++ kernel",
            "CPU tensors, float32 or bfloat16",
            kernels.missing,
            lambda x, h0: x.is_cpu and x.dtype in (torch.float32, torch.bfloat16),
            devices=("cpu",),
        ),
        "torch": Implementation(scan_torch.selective_scan, "plain torch"),
    },
)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_last)`, y (B, T, D) and h_last (B, D, N), both differentiable.

    `h0` (B, D, N) is the state before the first token, zero when None. On the meta device only
    shapes are computed, and `FlopCounterMode` counts 9 B T D N.
    Raises `UserError` when HYMBA_LAB_SCAN forces an implementation that cannot run, `ValueError`
    for shapes or devices that do not belong together.
    """
    _check(x, {"dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "h": h0})
    if x.is_meta:
        return scan_cpp.selective_scan(x, dt, A, B, C, D, z, dt_bias, h0)
    y, h_last = SCAN.run(x, h0)(x, dt, A, B, C, D, z, dt_bias, h0)
    return y, h_last


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    h: Tensor,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h)` after one token: x, dt, z, y (B, D), B, C (B, N), h (B, D, N).

    The new state is written to `out` if given, which may be h itself: a decoding cache then needs
    no copy. That has no gradient.
    """
    _check(x, {"dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "h": h})
    if x.is_meta:  # a sequence of one token: the same shapes and FLOPs
        y, after = scan_cpp.selective_scan(
            *(x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), D),
            None if z is None else z.unsqueeze(1),
            dt_bias,
            h,
        )
        return y.squeeze(1), after
    if one_token.fits(x, dt, B, C, D, z, dt_bias) and _takes_compiled(x):
        after = torch.empty(h.shape) if out is None else out
        return one_token.scan_step(x, dt, B, C, D, z, dt_bias, A, h, after), after
    y, after = scan_torch.selective_scan_step(x, dt, A, B, C, D, z, dt_bias, h)
    return y, after if out is None else out.copy_(after)


def _takes_compiled(x: Tensor) -> bool:
    return SCAN.forced() is None or SCAN.choose(x, None) == "cpp"


def _check(x: Tensor, others: dict[str, Tensor | None]) -> None:
    """The kernels read plain memory: a wrong shape must not get that far."""
    A = others["A"]
    assert A is not None
    *lead, n_channels = x.shape
    n_states = A.shape[-1]
    narrow, channel = (*lead, n_states), (n_channels,)
    expected = {"dt": x.shape, "z": x.shape, "B": narrow, "C": narrow}
    expected |= {"D": channel, "dt_bias": channel}
    expected |= {"A": (n_channels, n_states), "h": (lead[0], n_channels, n_states)}
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.shape != expected[name] or tensor.device != x.device:
            raise ValueError(
                f"selective scan of x {list(x.shape)} on {x.device}: {name} must be "
                f"{list(expected[name])} there, given {list(tensor.shape)} on {tensor.device}"
            )
