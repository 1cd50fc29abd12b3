"""The recurrences on a GPU through the Triton kernels of flash-linear-attention, if installed.

Its layout is ours: sequences (B, T, H, width), states (B, H, K, V) in float32, log decays. Its
names and arguments are tested with a stand-in; the kernels themselves have not run here.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.decays import LOWEST
from hymba_lab.ops.triton_device import NO_DEVICE

INSTALL = 'pip install "flash-linear-attention>=0.4"'
_MODULES = ("gated_delta_rule", "kda", "simple_gla", "gla")
WIDEST = 256  # key channels of a head that the kernels take


@cache
def missing() -> str | None:
    """Why the kernels cannot run here and what to do about it; None when they can."""
    if not torch.cuda.is_available():
        return NO_DEVICE
    try:
        for module in _MODULES:  # an older one lacks some
            importlib.import_module(f"fla.ops.{module}")
    except Exception as error:  # a broken install fails with whatever Triton raises
        return (
            f"flash-linear-attention does not import ({type(error).__name__}: {error}); install it "
            f"with `{INSTALL}`"
        )
    return None


def fits(v: Tensor, k: Tensor) -> bool:
    """Whether the kernels take these keys and values."""
    return v.is_cuda and v.dtype != torch.float64 and k.shape[3] <= WIDEST


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what `ops.delta_rule` returns, by the kernel for one decay per head or per channel."""
    q, k, beta = (t.to(v.dtype) for t in (q, k, beta))
    if log_decay.shape[3] == 1:
        run = _function("gated_delta_rule", "chunk_gated_delta_rule")
        return _ran(run, q, k, v, g=log_decay.squeeze(3).float(), beta=beta, state=state)
    run = _function("kda", "chunk_kda")
    decay = log_decay.float().clamp(min=LOWEST)
    return _ran(run, q, k, v, g=decay, beta=beta, state=state)


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what `ops.gated_linear_attention` returns."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    if log_decay.shape[3] == 1:
        run = _function("simple_gla", "chunk_simple_gla")
        return _ran(run, q, k, v, g=log_decay.squeeze(3).float(), state=state)
    run = _function("gla", "chunk_gla")
    return _ran(run, q, k, v, g=log_decay.float().clamp(min=LOWEST), state=state)


def ssd(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what `ops.ssd` returns: linear attention with one decay per head, q = C and k = B."""
    heads = x.shape[2] // B.shape[2]
    k, q = (t.to(x.dtype).repeat_interleave(heads, dim=2) for t in (B, C))
    return linear_attention(q, k, x, log_decay.unsqueeze(3), state)


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


def _ran(
    run: Any, q: Tensor, k: Tensor, v: Tensor, *, state: Tensor | None, **rates: Tensor
) -> tuple[Tensor, Tensor]:
    before = None if state is None else state.float()
    o, last = run(q, k, v, scale=1.0, initial_state=before, output_final_state=True, **rates)
    return o, last
