"""Selective scan on a GPU through Triton kernels of our own: no nvcc, every gradient.

Inputs of 16 or 32 bits are read as they are and computed in float32. The state before every chunk
is kept for the backward, which makes the others again; dB and dC are summed over channels by the
matrix unit, in TF32 where they are rounded to 16 bits afterwards, and over blocks of channels by
atomic additions, so on a GPU their last bits may differ from run to run.
With TRITON_INTERPRET=1, set before triton is imported, the same kernels run on CPU tensors.
"""

from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.scan_gradient import attach, gradient_shapes
from hymba_lab.ops.triton_device import FUSED, on, unit_stride

CHUNK = 8  # steps between two states that are kept [tokens]
WARP = 32  # threads; a program is one warp, so that its tiles stay in its registers
STATES = 8  # of one channel that a thread holds, where it can
PARTS = 2  # in which the backward takes a chunk: it holds all states of a part
LAUNCH = {"num_warps": 1, **FUSED}

_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "h0")


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
    *,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_last)` of the scan; equation and shapes as in `hymba_lab.ops.scan`.

    `chunk`, 4, 8 or 16, is the number of steps between two states that are kept for the backward,
    by default the fastest; the result does not depend on it but for rounding.
    """
    inputs = (x, dt, A, B, C, D, z, dt_bias, h0)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, h_last, _ = torch.ops.hymba_lab.scan_triton(*inputs, keep, chunk)
    return y, h_last


@torch.library.custom_op("hymba_lab::scan_triton", mutates_args=())
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
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h_last, starts): starts (B, chunks, N, D), the state before each chunk."""
    y, h_last, starts = _scan_shapes(x, dt, A, B, C, D, z, dt_bias, h0, keep, chunk)
    if x.numel() == 0:
        return y, h_last.zero_() if h0 is None else h_last.copy_(h0), starts
    ready = _ready((x, dt, A, B, C, D, z, dt_bias, h0))
    given = {name: _or(tensor, y) for name, tensor in ready.items()}
    with on(x):
        _kernels().forward[_grid(x, A, "forward")](
            **given, y=y, h_last=h_last, starts=starts,
            **_steps(ready, ("x", "dt", "B", "C", "z")), **_sizes(x, A, chunk, "forward"),
            HAS_Z=z is not None, HAS_BIAS=dt_bias is not None, HAS_H0=h0 is not None, KEEP=keep,
            **LAUNCH,
        )  # fmt: skip
    return y, h_last, starts


@_scan.register_fake
def _scan_shapes(x: Tensor, dt: Tensor, A: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    keep, chunk = others[-2:]
    state = (x.shape[0], *A.shape)
    chunks = -(-x.shape[1] // chunk) if keep else 0
    exact = x.new_empty((), dtype=torch.float32)
    return (
        x.new_empty(x.shape),
        exact.new_empty(state),
        exact.new_empty(state[0], chunks, *reversed(state[1:])),
    )


@torch.library.custom_op("hymba_lab::scan_triton_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_h: Tensor,
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
    chunk: int,
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias, h0; empty for an input that was None."""
    inputs = (x, dt, A, B, C, D, z, dt_bias, h0)
    if x.numel() == 0:
        grads = [_zeros(tensor, x) for tensor in inputs]
        return [*grads[:-1], grad_h.to(h0.dtype, copy=True) if h0 is not None else grads[-1]]
    ready = _ready((*inputs[:-1], None))
    del ready["h0"]
    gy = unit_stride(grad_y)
    made = _gradients(x, dt, A, B, z)
    given = {name: _or(tensor, gy) for name, tensor in ready.items()}
    with on(x):
        _kernels().backward[_grid(x, A, "backward")](
            gy=gy, gh=grad_h.float().contiguous(), **given, starts=starts, **made,
            **_steps({"gy": gy, **ready}, ("gy", "x", "dt", "B", "C", "z")),
            **_sizes(x, A, chunk, "backward"), HAS_Z=z is not None, HAS_BIAS=dt_bias is not None,
            EXACT=B.dtype == torch.float32, **LAUNCH,
        )  # fmt: skip
    names = ("dx", "ddt", "dA", "dB", "dC", "dD", "dz", "dbias", "dh0")
    return [
        x.new_empty(0) if tensor is None else _summed(made[name], tensor)
        for name, tensor in zip(names, inputs, strict=True)
    ]


_scan_backward.register_fake(gradient_shapes)
attach(_scan, torch.ops.hymba_lab.scan_triton_backward)


def _kernels() -> Any:
    from hymba_lab.ops import scan_triton_kernels

    return scan_triton_kernels


def _ready(inputs: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    """The inputs under the kernels' names: sequences may be slices of wider rows."""
    named = zip(_NAMES, inputs, strict=True)
    return {name: None if t is None else _READY.get(name, _dense)(t) for name, t in named}


def _dense(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


_READY = dict.fromkeys(("x", "dt", "B", "C", "z"), unit_stride)


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A kernel takes some address even where it never reads."""
    return stand_in if tensor is None else tensor


def _steps(tensors: dict[str, Tensor | None], names: tuple[str, ...]) -> dict[str, int]:
    """Elements from one batch row and from one token to the next."""
    found = {}
    for name in names:
        tensor = tensors[name]
        found[f"{name}_b"], found[f"{name}_t"] = (
            tensor.stride()[:2] if tensor is not None else (0, 0)
        )
    return found


def tile(n_states: int, chunk: int, kernel: str) -> dict[str, int]:
    """Return the sizes of a kernel's tile: BT steps, BN states, BD channels.

    The backward holds all states of its BT steps. Of the tiles tried on an H200 the fastest.
    """
    states = max(8, 1 << (n_states - 1).bit_length())
    channels = min(WARP, max(8, WARP * STATES // states))
    if kernel == "forward":
        return {"BT": chunk, "BN": states, "BD": channels}
    return {"PARTS": PARTS, "BT": chunk // PARTS, "BN": states, "BD": channels}


def _grid(x: Tensor, A: Tensor, kernel: str) -> tuple[int, int]:
    return -(-x.shape[2] // tile(A.shape[1], CHUNK, kernel)["BD"]), x.shape[0]


def _sizes(x: Tensor, A: Tensor, chunk: int, kernel: str) -> dict[str, int]:
    return {
        "T": x.shape[1], "n_channels": x.shape[2], "n_states": A.shape[1],
        "n_chunks": -(-x.shape[1] // chunk), **tile(A.shape[1], chunk, kernel),
    }  # fmt: skip


def _gradients(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, z: Tensor | None) -> dict[str, Tensor]:
    """What the kernel writes: sums over the batch are left to `_summed`."""
    exact = torch.float32
    per_row = {"dA": A.shape, "dD": A.shape[:1], "dbias": A.shape[:1], "dh0": A.shape}
    made = {k: x.new_empty(x.shape[0], *shape, dtype=exact) for k, shape in per_row.items()}
    return {
        **made,
        **{k: torch.zeros(B.shape, dtype=exact, device=x.device) for k in ("dB", "dC")},
        "dx": x.new_empty(x.shape),
        "ddt": dt.new_empty(dt.shape),
        "dz": x.new_empty(0) if z is None else z.new_empty(z.shape),
    }


def _summed(gradient: Tensor, tensor: Tensor) -> Tensor:
    """The gradient in the shape and type of its tensor, batch rows summed where it has none."""
    total = gradient if gradient.shape == tensor.shape else gradient.sum(0)
    return total.to(tensor.dtype)


def _zeros(tensor: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if tensor is None else torch.zeros_like(tensor)
