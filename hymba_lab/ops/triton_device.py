"""Where Triton kernels can run, and for which tensors starting one is worth its time.

With TRITON_INTERPRET=1, set before triton is imported, they run as Python on CPU tensors.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

NO_TRITON = 'triton does not import; install it with `pip install "hymba-lab[gpu]"`'
NO_DEVICE = "torch finds no CUDA device; on a machine with one, install a CUDA build of torch"
LEAST = 2**16  # elements below which starting a kernel is all the time there is; not tuned
LARGE = f"CUDA tensors of {LEAST} elements or more in 16 or 32 bits"
FUSED = {"enable_fp_fusion": True}  # a multiplication and an addition by one rounding


@cache
def missing() -> str | None:
    """Why the kernels cannot run here and what to do about it; None when they can."""
    if not torch.cuda.is_available() and not interpreted():
        return NO_DEVICE
    return None if find_spec("triton") else NO_TRITON


def interpreted() -> bool:
    """Whether Triton runs kernels as Python on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def takes(x: Tensor) -> bool:
    """Whether kernels take tensors like x: all compute in float32."""
    return (x.is_cuda or interpreted()) and x.dtype != torch.float64


def worth_it(x: Tensor) -> bool:
    """Whether a kernel for x is faster than what torch has, and nothing traces.

    Where a whole block is compiled, its compiler makes the kernel.
    """
    large = interpreted() or x.numel() >= LEAST
    return takes(x) and large and not torch.compiler.is_compiling()


def on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton starts kernels on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def unit_stride(x: Tensor) -> Tensor:
    """x (B, T, D) itself where neighbours in a row are neighbours in memory, else a copy."""
    return x if x.stride(2) == 1 else x.contiguous()


def even_rows(x: Tensor) -> tuple[Tensor, int]:
    """x (..., D) or a copy whose rows lie at one common distance, and that distance [elements]."""
    width = x.shape[-1]
    if x.stride(-1) == 1 or width == 1:
        inner = [(n, step) for n, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if n > 1]
        if all(step == n * below for (_, step), (n, below) in pairwise(inner)):
            return x, inner[-1][1] if inner else width
    return x.contiguous(), width
