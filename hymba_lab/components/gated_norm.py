"""What the recurrences do to their heads before they leave: a norm per head and a gate."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hymba_lab.components.norm import RMSNorm
from hymba_lab.errors import ConfigError

Activation = Callable[[Tensor], Tensor]


class GatedNorm(nn.Module):
    """y = RMSNorm(o) * f(z), the norm over the channels of each head, one weight for all heads.

    o (B, T, H, V) and z (B, T, H * V) give y (B, T, H * V).
    """

    def __init__(self, d_head_v: int, eps: float, activation: Activation) -> None:
        super().__init__()
        self.norm, self.activation = RMSNorm(d_head_v, eps), activation

    def forward(self, o: Tensor, z: Tensor) -> Tensor:
        y: Tensor = self.norm(o).flatten(2) * self.activation(z)
        return y


def heads_of(name: str, d_inner: int, d_head_v: int) -> int:
    """Return how many heads of d_head_v channels fill d_inner. Raises `ConfigError` otherwise."""
    if d_inner % d_head_v:
        raise ConfigError(
            f"{name} has heads of {d_head_v} value channels, but the branch is {d_inner} wide "
            "(expand * d_model), no multiple of it; change d_head or the width."
        )
    return d_inner // d_head_v


def to_heads(x: Tensor, width: int) -> Tensor:
    """(B, T, heads * width) -> (B, T, heads, width)."""
    return x.reshape(*x.shape[:2], -1, width)


def unit_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x over its length, by the last axis; a zero stays zero."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


@torch.no_grad()
def start_conv(weight: Tensor, bias: Tensor | None = None) -> None:
    """Torch's start of a depthwise convolution of (channels, taps)."""
    bound = weight.shape[1] ** -0.5
    for tensor in (weight, bias):
        if tensor is not None:
            nn.init.uniform_(tensor, -bound, bound)


@torch.no_grad()
def start_steps(A_log: Tensor, dt_bias: Tensor) -> None:
    """Mamba-2's start: A uniform in [1, 16], steps log-uniform in [1e-3, 1e-1]."""
    A_log.copy_(torch.empty_like(A_log).uniform_(1, 16).log())
    step = torch.empty_like(dt_bias).uniform_(-6.907755, -2.302585).exp()
    dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
