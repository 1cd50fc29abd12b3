"""Kimi Delta Attention (arXiv:2510.26692): the gated delta rule with a decay per key channel."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_delta import DELTA
from hymba_lab.components.gated_norm import (
    GatedNorm,
    heads_of,
    start_conv,
    to_heads,
    unit_norm,
)
from hymba_lab.components.past import WHOLE, Past
from hymba_lab.components.ssm import Count, ssms
from hymba_lab.ops.decays import LOWEST
from hymba_lab.ops.recurrence import at_least_float32


@ssms.register("kimi_delta")
class KimiDelta(nn.Module):
    """The gated delta rule with keys and values of one width and a decay per key channel.

    [q | k | v] = silu(conv(W x)), q and k of unit length;  beta = sigmoid(W_b x)
    log a = -5 sigmoid(exp(A_log) (W_a2 W_a1 x + b)), so that no factor is below e^-5
    S_t = (1 - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)
    y = norm(o) * sigmoid(W_g2 W_g1 x), the norm per head
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_head: Count = 128,
        gate_rank: Count | None = None,
        d_conv: Count = 4,
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """`gate_rank: null` is d_head, the width between the two maps of decay and gate."""
        super().__init__()
        n_heads, rank = heads_of("kimi_delta", d_inner, d_head), gate_rank or d_head
        self.d_head = d_head
        self.q_k_v = nn.Linear(d_model, 3 * d_inner, bias=False)
        self.a = nn.Sequential(_linear(d_model, rank), _linear(rank, d_inner))
        self.g = nn.Sequential(_linear(d_model, rank), _linear(rank, d_inner))
        self.b = nn.Linear(d_model, n_heads, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(3 * d_inner, d_conv))
        self.A_log = nn.Parameter(torch.empty(n_heads))
        self.decay_bias = nn.Parameter(torch.empty(d_inner))
        self.out = GatedNorm(d_head, eps, torch.sigmoid)
        self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        mixed = past.conv(self.q_k_v(x), self.conv_weight, None)
        q, k, v = (to_heads(t, self.d_head) for t in mixed.chunk(3, dim=-1))
        raw = to_heads(at_least_float32(self.a(x)) + self.decay_bias, self.d_head)
        log_decay = LOWEST * torch.sigmoid(self.A_log.exp().unsqueeze(1) * raw)
        tokens = {"q": unit_norm(q) * self.d_head**-0.5, "k": unit_norm(k), "v": v}
        tokens |= {"log_decay": log_decay, "beta": torch.sigmoid(self.b(x))}
        y: Tensor = self.out(past.recur(DELTA, tokens), self.g(x))
        return y

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state and last inputs."""
        channels, d_conv = self.conv_weight.shape
        return {
            "h": (len(self.A_log), self.d_head, self.d_head),
            "inputs": (d_conv - 1, channels),
        }

    @torch.no_grad()
    def reset(self) -> None:
        """Start as Mamba-2 does: rates in [1, 16] times steps in [1e-3, 1e-1], under the bound.

        With A_log = 0 the bias is the logit of rate * step / 5, at most a third.
        """
        start_conv(self.conv_weight)
        nn.init.zeros_(self.A_log)
        rate = torch.empty_like(self.decay_bias).uniform_(1, 16)
        step = torch.empty_like(self.decay_bias).uniform_(-6.907755, -2.302585).exp()
        self.decay_bias.copy_(torch.logit(rate * step / -LOWEST))


def _linear(d_in: int, d_out: int) -> nn.Linear:
    return nn.Linear(d_in, d_out, bias=False)
