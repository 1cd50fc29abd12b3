"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv:1910.07467)."""

import torch
from torch import Tensor, nn

from hymba_lab.ops.rms_norm import rms_norm


class RMSNorm(nn.Module):
    """The weight is kept in float32 and used in the input's precision, as autocast does."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        return rms_norm(x, weight if weight.dtype is x.dtype else weight.to(x.dtype), self.eps)
