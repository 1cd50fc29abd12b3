"""Gated linear attention (arXiv:2312.06635): a decay per key channel, no correction."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_norm import GatedNorm, heads_of, to_heads
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import Count, ssms
from hymba_lab.ops.delta_rule import gated_linear_attention
from hymba_lab.ops.recurrence import at_least_float32

LINEAR = Recurrence(gated_linear_attention, no_step={"k": 0.0, "log_decay": 0.0}, values="v")
"""Gated linear attention of q, k, v (B, T, H, ...) and log_decay (B, T, H, K)."""


@ssms.register("gla")
class GatedLinearAttention(nn.Module):
    """Linear attention whose state forgets.

    q, k, v = W x;  log a = log sigmoid(W_a2 W_a1 x + b) / tau
    S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)
    y = norm(o) * silu(W_z x), the norm per head
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_head: Count = 64,
        expand_v: Count = 2,
        gate_rank: Count = 16,
        tau: Annotated[float, Field(gt=0)] = 16.0,
        eps: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """Value heads have expand_v * d_head channels."""
        super().__init__()
        self.d_head, self.d_head_v, self.tau = d_head, expand_v * d_head, tau
        self.n_heads = heads_of("gla", d_inner, self.d_head_v)
        d_keys = self.n_heads * d_head
        self.widths = [d_keys, d_keys, d_inner]
        self.q_k_v = nn.Linear(d_model, sum(self.widths), bias=False)
        self.z = nn.Linear(d_model, d_inner, bias=False)
        self.a = nn.Sequential(
            nn.Linear(d_model, gate_rank, bias=False), nn.Linear(gate_rank, d_keys)
        )
        self.out = GatedNorm(self.d_head_v, eps, F.silu)

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        q, k, v = self.q_k_v(x).split(self.widths, dim=-1)
        q, k = (to_heads(t, self.d_head) for t in (q, k))
        log_decay = to_heads(F.logsigmoid(at_least_float32(self.a(x))) / self.tau, self.d_head)
        tokens = {"q": q * self.d_head**-0.5, "k": k, "v": to_heads(v, self.d_head_v)}
        o = past.recur(LINEAR, {**tokens, "log_decay": log_decay})
        y: Tensor = self.out(o, self.z(x))
        return y

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the state that one row keeps, whatever the length."""
        return {"h": (self.n_heads, self.d_head, self.d_head_v)}
