"""Which implementation of an operation runs, and why another one does not."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from hymba_lab.errors import UserError
from hymba_lab.ops import kernels, scan_cpp, scan_cuda, scan_torch

Scan = Callable[..., tuple[Tensor, Tensor]]
VARIABLE = "HYMBA_LAB_SCAN"


@dataclass(frozen=True)
class Backend:
    """One implementation: `missing()` says why it is absent, `takes(x, h0)` whether it fits."""

    scan: Scan
    missing: Callable[[], str | None]
    takes: Callable[[Tensor, Tensor | None], bool]
    inputs: str


SCANS = {
    "cuda": Backend(
        scan_cuda.selective_scan,
        scan_cuda.missing,
        lambda x, h0: x.is_cuda and x.dtype != torch.float64 and h0 is None,
        "CUDA tensors, float32 or 16 bits, without an initial state",
    ),
    "cpp": Backend(
        scan_cpp.selective_scan,
        kernels.missing,
        lambda x, h0: x.is_cpu and x.dtype in (torch.float32, torch.bfloat16),
        "CPU tensors, float32 or bfloat16",
    ),
    "torch": Backend(scan_torch.selective_scan, lambda: None, lambda x, h0: True, "any tensor"),
}
"""The implementations of the selective scan, fastest first."""


class Status(TypedDict):
    """What runs (`chosen`), what could (`available`), and what to do about the rest."""

    chosen: str
    available: list[str]
    unavailable: dict[str, str]


def backends() -> dict[str, Status]:
    """The state of every operation's implementations on this machine.

    `chosen` is what a float32 sequence takes here; heads whose width is no multiple of 8 take
    torch's attention. HYMBA_LAB_SCAN=torch|cpp|cuda forces a scan.
    """
    reasons = {name: backend.missing() for name, backend in SCANS.items()}
    available = [name for name, reason in reasons.items() if reason is None]
    return {
        "selective_scan": Status(
            chosen=forced() or available[0], available=available, unavailable=_told(reasons)
        ),
        "causal_conv": _kernel_status(),
        "rms_norm": _kernel_status(),
        "rotation": _kernel_status(),
        "swiglu": _kernel_status(),
        "attention": _attention_status(),
    }


def chosen() -> dict[str, str]:
    """What a run is tagged with: the scan, the attention, and the build of their kernels."""
    found = backends()
    return {
        "scan_backend": _with_build(found["selective_scan"]["chosen"]),
        "attention_backend": _with_build(found["attention"]["chosen"]),
    }


def _with_build(name: str) -> str:
    return f"cpp {kernels.variant()}" if name == "cpp" else name


def _kernel_status() -> Status:
    """The state of what has a kernel for the CPU and none for CUDA."""
    reason = kernels.missing()
    available = ["torch"] if reason else ["cpp", "torch"]
    chosen = "torch" if torch.cuda.is_available() else available[0]
    return Status(chosen=chosen, available=available, unavailable=_told({"cpp": reason}))


def _attention_status() -> Status:
    cuda = torch.cuda.is_available()
    cpu_only = "it serves the CPU, where FlexAttention has no backward" if cuda else None
    reasons = {
        "flex": None if cuda else f"it has no backward on a CPU, and {scan_cuda.NO_DEVICE}",
        "cpp": cpu_only or kernels.missing(),
        "blocks": cpu_only,
    }
    available = [*(name for name, reason in reasons.items() if reason is None), "sdpa"]
    return Status(chosen=available[0], available=available, unavailable=_told(reasons))


def _told(reasons: dict[str, str | None]) -> dict[str, str]:
    return {name: reason for name, reason in reasons.items() if reason is not None}


def forced() -> str | None:
    """The scan that HYMBA_LAB_SCAN asks for; None when it is not set."""
    name = os.environ.get(VARIABLE) or None
    if name is None:
        return None
    if name not in SCANS:
        raise UserError(f"{VARIABLE}={name}: no such scan; allowed: {', '.join(SCANS)}")
    reason = SCANS[name].missing()
    if reason is not None:
        raise UserError(f"{VARIABLE}={name} cannot run: {reason}; or unset {VARIABLE}")
    return name


def choose_scan(x: Tensor, h0: Tensor | None) -> str:
    """The name of the scan for these tensors."""
    fitting = tuple(name for name, backend in SCANS.items() if backend.takes(x, h0))
    name: str = _pick(fitting, x.dtype, x.device.type, h0 is not None)
    return name


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _pick(fitting: tuple[str, ...], dtype: torch.dtype, device: str, has_h0: bool) -> str:
    """The forced scan, else the first of the fitting ones that can run; no part of a graph."""
    name = forced()
    if name is None:
        return next(name for name in fitting if SCANS[name].missing() is None)
    if name not in fitting:
        raise UserError(
            f"{VARIABLE}={name}: it takes {SCANS[name].inputs}; given {dtype} on {device}"
            f"{' with an initial state' if has_h0 else ''}; unset {VARIABLE}"
        )
    return name
