"""The sides of `scan.py`: our implementations, other ways to compute the same scan, the limit.

Every side computes y = scan(x, dt, A, B, C, D) with softplus of dt + dt_bias, without a gate and
from a zero state, which is what all of them can do.
"""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pairs import Step
from torch import Tensor

from hymba_lab.ops import kernels, selective_scan
from hymba_lab.training.memory import keep_memory

Shape = tuple[int, int, int, int]  # B, D, T, N
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
# per element (one state of one channel at one step): exp of the forward, multiply-adds of
# h = decay h + drive B (two) and y += C h (one); the backward recomputes decay and h, and then
# takes eight: the adjoint from y and from the next step, grad_B, grad_C, grad_A, grad_drive, and
# the gradient of the exponent (two)
FORWARD_EXPS, FORWARD_FMAS = 1, 3
BACKWARD_EXPS, BACKWARD_FMAS = 1, 2 + 8


def ours(shape: Shape, backward: bool, build: str | None = None) -> Step:
    """Return the step of `selective_scan`, with one build of the kernel or the best."""
    if build is not None:
        setattr(kernels, "variant", lambda: build)  # noqa: B010 - it is a function
        if (reason := kernels.missing()) is not None:
            raise RuntimeError(reason)

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, b: Tensor
    ) -> Tensor:
        return selective_scan(x, dt, A, B, C, D, dt_bias=b)[0]

    return _step(scan, shape, backward)


def mambapy(shape: Shape, backward: bool) -> Step:
    """Return the step of mambapy's parallel scan, used as its `MambaBlock.selective_scan` does."""
    from mambapy.pscan import pscan

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, b: Tensor
    ) -> Tensor:
        decay, drive = _discrete(x, F.softplus(dt + b), A, B)
        h: Tensor = pscan(decay, drive)
        return (h @ C.unsqueeze(-1)).squeeze(3) + D * x

    return _step(scan, shape, backward)


def unbind(shape: Shape, backward: bool) -> Step:
    """Return the step of the recurrence as a loop over `unbind`, differentiated by autograd."""

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, b: Tensor
    ) -> Tensor:
        decay, drive = _discrete(x, F.softplus(dt + b), A, B)
        h, outputs = torch.zeros_like(decay[:, 0]), []
        for decay_t, drive_t, C_t in zip(
            decay.unbind(1), drive.unbind(1), C.unbind(1), strict=True
        ):
            h = decay_t * h + drive_t
            outputs.append((h @ C_t.unsqueeze(-1)).squeeze(-1))
        return torch.stack(outputs, 1) + D * x

    return _step(scan, shape, backward)


def associative(shape: Shape, backward: bool) -> Step:
    """Return the step of torch's compiled `associative_scan`."""
    from torch._higher_order_ops import associative_scan

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    @torch.compile(fullgraph=True)
    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, b: Tensor
    ) -> Tensor:
        pair = _discrete(x, F.softplus(dt + b), A, B)
        h: Tensor = associative_scan(combine, pair, dim=1, combine_mode="generic")[1]
        return (h @ C.unsqueeze(-1)).squeeze(3) + D * x

    return _step(scan, shape, backward)


def transformers(shape: Shape, backward: bool) -> Step:
    """Return the step of transformers' Mamba without its kernels: a loop that indexes the time."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, b: Tensor
    ) -> Tensor:
        turned = (t.transpose(1, 2) for t in (x, dt))
        narrow = (t.transpose(1, 2) for t in (B, C))
        y: Tensor = mamba_selective_scan(*turned, A, *narrow, D, delta_bias=b, delta_softplus=True)
        return y.transpose(1, 2)

    return _step(scan, shape, backward)


def limit(shape: Shape, backward: bool) -> Step:
    """Return a step that does the scan's exp and multiply-adds in registers and nothing else."""
    library = _built_limit()
    n_batch, n_channels, n_time, n_states = shape
    elements = n_batch * n_channels * n_time * n_states
    exps = elements * (FORWARD_EXPS + (BACKWARD_EXPS if backward else 0))
    fmas = elements * (FORWARD_FMAS + (BACKWARD_FMAS if backward else 0))
    counts = [ctypes.c_int64(n) for n in (exps, fmas, torch.get_num_threads())]

    def step() -> None:
        library.run_limit(*counts)

    return step


def _built_limit() -> ctypes.CDLL:
    source = Path(__file__).with_name("scan_limit.cpp")
    headers = Path(kernels.__file__).with_name("csrc")
    march = {"plain": []}.get(kernels.variant(), [f"-march=x86-64-{kernels.variant()}"])
    with tempfile.TemporaryDirectory() as folder:
        built = f"{folder}/limit.so"
        subprocess.run(
            [os.environ.get("CXX", "c++"), *FLAGS, *march, "-Wno-psabi", "-pthread", "-shared",
             "-fPIC", f"-I{headers}", str(source), "-o", built],
            check=True,
        )  # fmt: skip
        return ctypes.CDLL(built)


def _discrete(x: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decay exp(delta A) and the input delta x B, both (B, T, D, N)."""
    return torch.exp(delta.unsqueeze(-1) * A), (delta * x).unsqueeze(-1) * B.unsqueeze(2)


def _step(scan: Scan, shape: Shape, backward: bool) -> Step:
    """Return forward, or forward and backward for every input, with memory kept as in training."""
    keep_memory()
    torch.manual_seed(0)
    n_batch, n_channels, n_time, n_states = shape
    wide, narrow = (n_batch, n_time, n_channels), (n_batch, n_time, n_states)
    inputs = (
        torch.randn(wide),
        torch.randn(wide) * 0.5,
        -torch.arange(1.0, n_states + 1).repeat(n_channels, 1),
        torch.randn(narrow),
        torch.randn(narrow),
        torch.randn(n_channels),
        torch.full((n_channels,), 0.05).expm1().log(),
    )
    arriving = torch.randn(wide)
    if not backward:
        return lambda: _forget(scan(*inputs))
    leaves = [t.requires_grad_() for t in inputs]

    def step() -> None:
        torch.autograd.grad(scan(*leaves), leaves, arriving)

    return step


def _forget(_: Tensor) -> None:
    """Drop the output, as the end of a step does."""
