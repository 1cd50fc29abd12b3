"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv:1910.07467)."""

from torch import Tensor, nn
from torch.nn.functional import rms_norm


class RMSNorm(nn.RMSNorm):
    """Weights are kept in float32 and used in the input's precision, as autocast does for matrices.

    Torch's own module warns about the mixture and leaves its fused kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
