"""Gated DeltaNet (arXiv:2412.06464): a state that forgets and corrects what it holds."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_norm import (
    GatedNorm,
    heads_of,
    start_conv,
    start_steps,
    to_heads,
    unit_norm,
)
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import Count, ssms
from hymba_lab.errors import ConfigError
from hymba_lab.ops.delta_rule import delta_rule
from hymba_lab.ops.recurrence import at_least_float32

DELTA = Recurrence(delta_rule, no_step={"beta": 0.0, "log_decay": 0.0}, values="v")
"""The delta rule of q, k, v (B, T, H, ...), log_decay (B, T, H, 1 or K) and beta (B, T, H)."""


@ssms.register("gated_delta")
class GatedDelta(nn.Module):
    """The gated delta rule with one decay per head.

    [q | k | v] = silu(conv(W x)), q and k of unit length;  beta = sigmoid(W_b x)
    log a = -exp(A_log) softplus(W_a x + b)
    S_t = a_t (1 - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)
    y = norm(o) * silu(W_z x), the norm per head
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_head: Count = 64,
        expand_v: Count = 2,
        heads_per_key: Count = 1,
        d_conv: Count = 4,
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """Value heads have expand_v * d_head channels; `heads_per_key` of them share q and k."""
        super().__init__()
        self.d_head, self.d_head_v, self.heads_per_key = d_head, expand_v * d_head, heads_per_key
        n_heads = heads_of("gated_delta", d_inner, self.d_head_v)
        if n_heads % heads_per_key:
            raise ConfigError(
                f"gated_delta: heads_per_key = {heads_per_key} does not divide {n_heads} heads."
            )
        d_keys = n_heads // heads_per_key * d_head
        self.widths = [d_keys, d_keys, d_inner]
        self.q_k_v = nn.Linear(d_model, sum(self.widths), bias=False)
        self.z = nn.Linear(d_model, d_inner, bias=False)
        self.a = nn.Linear(d_model, n_heads, bias=False)
        self.b = nn.Linear(d_model, n_heads, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(sum(self.widths), d_conv))
        self.A_log = nn.Parameter(torch.empty(n_heads))
        self.dt_bias = nn.Parameter(torch.empty(n_heads))
        self.out = GatedNorm(self.d_head_v, eps, F.silu)
        self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        mixed = past.conv(self.q_k_v(x), self.conv_weight, None)
        q, k, v = torch.split(mixed, self.widths, dim=-1)
        q, k = (unit_norm(to_heads(t, self.d_head)) for t in (q, k))
        q, k = (t.repeat_interleave(self.heads_per_key, dim=2) for t in (q, k))
        log_decay = -self.A_log.exp() * F.softplus(at_least_float32(self.a(x)) + self.dt_bias)
        tokens = {"q": q * self.d_head**-0.5, "k": k, "v": to_heads(v, self.d_head_v)}
        tokens |= {"log_decay": log_decay.unsqueeze(3), "beta": torch.sigmoid(self.b(x))}
        y: Tensor = self.out(past.recur(DELTA, tokens), self.z(x))
        return y

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state and last inputs."""
        channels, d_conv = self.conv_weight.shape
        return {
            "h": (len(self.A_log), self.d_head, self.d_head_v),
            "inputs": (d_conv - 1, channels),
        }

    def reset(self) -> None:
        """Start as in Mamba-2: A in -[1, 16], steps log-uniform in [1e-3, 1e-1]."""
        start_conv(self.conv_weight)
        start_steps(self.A_log, self.dt_bias)
