"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv:1910.07467)."""

import torch
from torch import Tensor, nn

from hymba_lab.errors import ConfigError
from hymba_lab.ops.recurrence import at_least_float32
from hymba_lab.ops.rms_norm import rms_norm


class RMSNorm(nn.Module):
    """The weight is kept in float32, whatever the input's precision."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class GroupRMSNorm(nn.Module):
    """The same over each of `n_groups` equal parts of the last axis, one weight per channel."""

    def __init__(self, width: int, n_groups: int, eps: float) -> None:
        super().__init__()
        if width % n_groups:
            raise ConfigError(
                f"n_groups = {n_groups} does not divide the {width} channels of a branch."
            )
        self.n_groups, self.eps = n_groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        groups = at_least_float32(x).view(*x.shape[:-1], self.n_groups, -1)
        scale = torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)
        y: Tensor = (groups * scale).view(x.shape).to(x.dtype)
        return y * self.weight.to(x.dtype)
