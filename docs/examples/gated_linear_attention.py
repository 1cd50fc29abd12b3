"""A mixer with a state, as a plugin: gated linear attention (arXiv:2312.06635), written plainly.

hymba-lab check gated_linear_attention.py
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import ssms


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^log_decay_t) S_{t-1} + k_t v_t^T;  y_t = S_t^T q_t, in float32 at least.

    q, k, log_decay (B, T, H, K); v, y (B, T, H, V); S (B, H, K, V), None for the zero state.
    """
    dtype, exact = v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v, decay = (t.to(exact) for t in (q, k, v, log_decay.exp()))
    S = v.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[3]) if state is None else state
    y = []
    for t in range(v.shape[1]):
        S = decay[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        y.append((q[:, t, :, :, None] * S).sum(2))
    return torch.stack(y, 1).to(dtype), S


# a token with k = 0 that forgets nothing leaves the state as it is: padding gets these values
GLA = Recurrence(recurrence, no_step={"k": 0.0, "log_decay": 0.0}, values="v")


@ssms.register("gated_linear_attention")
class GatedLinearAttention(nn.Module):
    """y = norm(recurrence(q, k, v, log_decay)) * silu(W_g x), heads joined; no convolution."""

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        n_heads: Annotated[int, Field(ge=1)] = 2,
        d_key: Annotated[int, Field(ge=1)] = 16,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.decay = (nn.Linear(d_model, n_heads * d_key) for _ in range(3))
        self.v, self.gate = nn.Linear(d_model, d_inner), nn.Linear(d_model, d_inner)
        self.norm = RMSNorm(d_inner // n_heads, 1e-6)

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_inner)."""
        q, k, v, decay = (
            project(x).unflatten(2, (self.n_heads, -1))
            for project in (self.q, self.k, self.v, self.decay)
        )
        log_decay = nn.functional.logsigmoid(decay) / 16
        tokens = {"q": q * q.shape[3] ** -0.5, "k": k, "v": v, "log_decay": log_decay}
        y = past.recur(GLA, tokens, state="S")
        return self.norm(y).flatten(2) * nn.functional.silu(self.gate(x))

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return what one row keeps, whatever the length."""
        d_key = self.q.out_features // self.n_heads
        return {"S": (self.n_heads, d_key, self.v.out_features // self.n_heads)}
