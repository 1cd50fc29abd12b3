"""The operations of a layer on a GPU, forward and backward: Triton kernels against torch's own.

Each is recorded as a CUDA graph and started again, so that nothing but its kernels is timed.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.conv import CAUSAL_CONV
from hymba_lab.ops.cross_entropy import CROSS_ENTROPY, linear_cross_entropy
from hymba_lab.ops.rms_norm import RMS_NORM
from hymba_lab.ops.rotary import ROTATION, rope_table
from hymba_lab.ops.selection import Operation
from hymba_lab.ops.swiglu import SWIGLU
from hymba_lab.training.part_graph import captured

B, T, VOCAB = 8, 2176, 32001  # rows, tokens with the meta tokens
Timer = Callable[[Callable[[], object]], float]


def layer_lines(milliseconds: Timer) -> Iterator[str]:
    """The table, at the shapes of hymba_350m."""
    yield f"## Operations of a layer of hymba_350m, forward and backward, (B, T) = ({B}, {T}), bf16"
    yield ""
    yield "| operation | Triton ms | torch ms |"
    yield "|---|---|---|"
    for name, (operation, leaves, rest) in _cases().items():
        sides = (operation.implementations[side].run for side in ("triton", "torch"))
        times = [milliseconds(_graph(run, leaves, rest)) for run in sides]
        yield f"| {name} | {times[0]:.3f} | {times[1]:.3f} |"
    yield f"| cross-entropy | {_cross_entropy(milliseconds)} |"
    yield ""


def _cases() -> dict[str, tuple[Operation, list[Tensor], tuple[Any, ...]]]:
    tables = rope_table(range(T), 64, 1e4, torch.device("cuda"))
    heads = _leaf(B, T, 12, 64).detach().transpose(1, 2).requires_grad_()
    single = torch.float32
    conv = [_leaf(B, T, 1536), _leaf(1536, 4, dtype=single), _leaf(1536, dtype=single)]
    return {
        "norm, float32 in, 768": (RMS_NORM, [_leaf(B, T, 768, dtype=single),
                                             _leaf(768, dtype=single)], (1e-6,)),
        "norm, 1536": (RMS_NORM, [_leaf(B, T, 1536), _leaf(1536, dtype=single)], (1e-6,)),
        "norm, 16": (RMS_NORM, [_leaf(B, T, 16), _leaf(16, dtype=single)], (1e-6,)),
        "convolution, 1536": (CAUSAL_CONV, conv, (True, None)),
        "rotation, 12 heads of 64": (ROTATION, [heads], tables),
        "SwiGLU, 2432": (SWIGLU, [_leaf(B, T, 2432), _leaf(B, T, 2432)], ()),
    }  # fmt: skip


def _leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)


def _graph(
    run: Callable[..., Any], leaves: list[Tensor], rest: tuple[Any, ...]
) -> Callable[[], None]:
    def both() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = run(*leaves, *rest)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    both()  # compiles
    torch.cuda.synchronize()
    return captured(both)


def _cross_entropy(milliseconds: Timer) -> str:
    """Both times of all rows of a part, the head's products included."""
    rows = 8 * 2048
    leaves = [_leaf(rows, 768), _leaf(VOCAB, 768, dtype=torch.float32)]
    targets = torch.randint(0, VOCAB, (rows,), device="cuda")
    share = torch.full((rows,), 1 / rows, device="cuda")

    def run(x: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(x, w, targets, share)[0]

    times = []
    for side in ("triton", "torch"):
        os.environ[CROSS_ENTROPY.variable] = side
        times.append(milliseconds(_graph(run, leaves, ())))
    del os.environ[CROSS_ENTROPY.variable]
    return " | ".join(f"{time:.2f}" for time in times)
