"""Selective scan on a GPU through the kernels of mamba-ssm, if that package is installed."""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.triton_device import NO_DEVICE

EXTENSION = "selective_scan_cuda"
INSTALL = 'pip install --no-build-isolation "mamba-ssm>=2.2"'


@cache
def missing() -> str | None:
    """Why the kernels cannot run here and what to do about it; None when they can."""
    if not torch.cuda.is_available():
        return NO_DEVICE
    try:
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # a broken build fails with whatever its loader raises
        return (
            f"mamba-ssm does not import ({type(error).__name__}: {error}); install it after torch "
            f"with `{INSTALL}`"
        )
    if getattr(interface, EXTENSION, None) is None:  # newer releases leave it out unless asked
        return (
            f"mamba-ssm was built without {EXTENSION}, its compiled scan; build it with "
            f"`MAMBA_KEEP_CUDA_BUILD=TRUE {INSTALL} --force-reinstall --no-deps --no-binary "
            "mamba-ssm`"
        )
    return None


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: None,
) -> tuple[Tensor, Tensor]:
    """Return `(y, h_last)`; mamba-ssm starts from zero and has no gradient through h_last."""
    kernels = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    y, h_last = kernels.selective_scan_fn(
        *(channels_first(tensor, x.dtype) for tensor in (x, dt)),
        A.float(),
        *(channels_first(tensor, x.dtype) for tensor in (B, C)),
        D.float(),
        z=None if z is None else channels_first(z, x.dtype),
        delta_bias=None if dt_bias is None else dt_bias.float(),
        delta_softplus=True,
        return_last_state=True,
    )
    y = y.transpose(1, 2)
    return y, _NoGradient.apply(h_last.detach(), y)  # type: ignore[no-untyped-call]


def channels_first(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, D) -> (B, D, T), the layout and the single input dtype of the kernels."""
    return tensor.to(dtype).transpose(1, 2).contiguous()


class _NoGradient(torch.autograd.Function):
    """Passes the state on and refuses the gradient that mamba-ssm would silently drop."""

    @staticmethod
    def forward(ctx: Any, h_last: Tensor, y: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return h_last.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None]:
        if grads[0] is not None:
            raise NotImplementedError(
                "mamba-ssm has no gradient through the last state of a scan; "
                "set HYMBA_LAB_SCAN=torch to train through it"
            )
        return None, None
