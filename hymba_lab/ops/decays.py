"""How much a state forgets inside a chunk: one factor per head, or one per key channel.

With g_i the sum of the logarithms of the factors of the tokens 0..i of a chunk, what token j wrote
reaches token i >= j weighted by e^(g_i - g_j). Shapes lead with (n, M): n chunks of C tokens,
M = batch x heads.
"""

from abc import ABC, abstractmethod

from torch import Tensor

LOWEST = -5.0
"""The lowest logarithm of a factor per channel and token.

Factors per channel stand in a matrix product as e^(g_i - g_m) e^(g_m - g_j), m the middle of the
chunk: 16 tokens of -5 are e^40 on either side, whose products stay in float32. (Kimi Delta
Attention bounds its decay in the same place, arXiv:2510.26692.)
"""


class Decay(ABC):
    """Weights between the tokens of a chunk, to its end and from its beginning."""

    longest: int  # tokens of a chunk at most

    def __init__(self, log_decay: Tensor) -> None:
        """`log_decay` (n, M, C, K or 1), at most 0.

        `total` is g; the factors are `since_start` (n, M, C, K or 1) from the state before the
        chunk, `to_end` (the same) to the state after it, `whole` (n, M, K or 1, 1) of the state.
        """
        self.total = log_decay.cumsum(-2)
        last = self.total[..., -1:, :]
        self.since_start, self.to_end = self.total.exp(), (last - self.total).exp()
        self.whole = last.exp().mT

    @abstractmethod
    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """Return sum_c a_ic e^(g_ic - g_jc) b_jc (n, M, C, C), without meaning where i < j."""

    @abstractmethod
    def scores_backward(self, grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of a and b; `grad` is 0 where i < j."""


class HeadDecay(Decay):
    """One factor per head: the weights are a matrix of their own, safe for any decay."""

    longest = 64

    def __init__(self, log_decay: Tensor) -> None:
        super().__init__(log_decay)
        exact = log_decay.double().cumsum(-2)  # sums of large decays differ by small ones
        rest = (exact - exact.to(log_decay.dtype)).to(log_decay.dtype)
        self.total = exact.to(log_decay.dtype)
        between = (self.total - self.total.mT).add_(rest).sub_(rest.mT)
        # 0 where j > i; the exponential of a number is faster than that of infinity
        self.between = between.clamp_(max=0).exp_().tril_()
        self.to_end = self.between[..., -1:, :].mT

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """(a b^T) * L with L_ij = e^(g_i - g_j), 0 where i < j."""
        return (a @ b.mT).mul_(self.between)

    def scores_backward(self, grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """L belongs to the gradient of a b^T."""
        weighted = grad * self.between
        return weighted @ b, weighted.mT @ a


class ChannelDecay(Decay):
    """One factor per key channel, not below e^LOWEST."""

    longest = 16

    def __init__(self, log_decay: Tensor) -> None:
        super().__init__(log_decay)
        middle = self.total[..., self.total.shape[-2] // 2, None, :]
        self.up, self.down = (self.total - middle).exp(), (middle - self.total).exp()

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """(a e^(g - g_m)) (b e^(g_m - g))^T."""
        return (a * self.up) @ (b * self.down).mT

    def scores_backward(self, grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Each side's own factor stays with it."""
        grad_a = grad @ (b * self.down)
        grad_b = grad.mT @ (a * self.up)
        return grad_a.mul_(self.up), grad_b.mul_(self.down)
