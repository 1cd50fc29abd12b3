"""Operations of many passes over memory as one GPU kernel: torch.compile, on their first call.

Where a whole block is compiled, the operation becomes a part of its graph instead.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops import scan_triton
from hymba_lab.ops.selection import Implementation

LEAST = 2**16  # elements below which starting a kernel is all the time there is; not tuned


def fused(function: Callable[..., Any], inputs: str, takes: Callable[..., bool]) -> Implementation:
    """Return the implementation that compiles `function` for CUDA tensors that it takes."""

    @wraps(function)
    def run(*given: Any) -> Any:
        return (function if torch.compiler.is_compiling() else _compiled(function))(*given)

    return Implementation(
        run,
        "one kernel by torch.compile",
        f"CUDA tensors of {LEAST} elements or more{inputs}",
        scan_triton.missing,
        lambda *given: _worth_it(given[0]) and takes(*given),
        devices=("cuda",),
    )


_compiled = cache(torch.compile)


def _worth_it(x: Tensor) -> bool:
    return x.is_cuda and x.numel() >= LEAST
