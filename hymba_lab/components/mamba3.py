"""Mamba-3 (arXiv:2603.15569), one input and output a head: two tokens a step, a turning state."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.components.gated_norm import heads_of, start_steps, to_heads
from hymba_lab.components.norm import RMSNorm
from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import NO_STEP, Count, ssms
from hymba_lab.errors import ConfigError
from hymba_lab.ops.recurrence import computed
from hymba_lab.ops.ssd import ssd

SLOWEST = 1e-4  # the least rate of decay


@ssms.register("mamba3")
class Mamba3(nn.Module):
    """Without a convolution: the step itself takes in the token before, and B and C have a bias.

    [u | B | C] = W x, B and C normed;  dt = softplus(W_dt x + b), r = softplus(W_r x)
    phi_t = phi_{t-1} + dt_t pi tanh(W_phi x), the angle by which B_t + b_B and C_t + b_C are turned
    a_t = exp(-dt_t r_t), l_t = sigmoid(W_l x):
    h_t = a_t h_{t-1} + (1 - l_t) dt_t a_t B_{t-1} u_{t-1}^T + l_t dt_t B_t u_t^T
    y_t = (h_t^T C_t + D u_t) * silu(W_z x)
    """

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        *,
        d_state: Annotated[int, Field(ge=2, le=2**24)] = 128,
        d_head: Count = 64,
        n_groups: Count = 1,
        rope_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
        eps: Annotated[float, Field(gt=0)] = 1e-5,
    ) -> None:
        """`rope_share` of the states turn, in pairs."""
        super().__init__()
        n_heads = heads_of("mamba3", d_inner, d_head)
        if n_heads % n_groups:
            raise ConfigError(f"mamba3: n_groups = {n_groups} does not divide {n_heads} heads.")
        self.d_state, self.d_head = d_state, d_head
        self.widths = [d_inner, n_groups * d_state, n_groups * d_state]
        self.u_b_c = nn.Linear(d_model, sum(self.widths), bias=False)
        self.z = nn.Linear(d_model, d_inner, bias=False)
        self.dt = nn.Linear(d_model, n_heads, bias=False)
        self.rate = nn.Linear(d_model, n_heads, bias=False)
        self.share = nn.Linear(d_model, n_heads, bias=False)
        self.turn = nn.Linear(d_model, max(1, int(d_state * rope_share) // 2), bias=False)
        self.norm_B, self.norm_C = RMSNorm(d_state, eps), RMSNorm(d_state, eps)
        self.bias_B = nn.Parameter(torch.empty(n_heads, d_state))
        self.bias_C = nn.Parameter(torch.empty(n_heads, d_state))
        self.dt_bias = nn.Parameter(torch.empty(n_heads))
        self.D = nn.Parameter(torch.empty(n_heads))
        self.reset()

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        u, B, C = torch.split(self.u_b_c(x), self.widths, dim=-1)
        B, C = (to_heads(t, self.d_state) for t in (B, C))
        B, C = self.norm_B(B), self.norm_C(C)
        both = torch.cat([u, B.flatten(2)], dim=-1)
        taps = torch.eye(1, 2, dtype=both.dtype, device=both.device)  # of a shift by one token
        one_late = taps.repeat(both.shape[2], 1)
        late = past.conv(both, one_late, None, silu=False)
        tokens = {"u": to_heads(u, self.d_head), "B": B, "C": C}
        tokens |= {"u_before": to_heads(late[..., : u.shape[2]], self.d_head)}
        tokens |= {"B_before": to_heads(late[..., u.shape[2] :], self.d_state)}
        tokens |= {"dt": self.dt(x), "rate": self.rate(x)}
        tokens |= {"share": self.share(x), "turn": self.turn(x)}
        fixed = {"bias_B": self.bias_B, "bias_C": self.bias_C, "dt_bias": self.dt_bias, "D": self.D}
        return past.recur(TRAPEZOID, tokens, fixed).flatten(2) * F.silu(self.z(x))

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps, whatever the length: state, last u and B."""
        n_heads = len(self.D)
        return {
            "h": (n_heads, self.d_state, self.d_head),
            "inputs": (1, self.widths[0] + self.widths[1]),
        }

    @torch.no_grad()
    def reset(self) -> None:
        """The paper's start: steps log-uniform in [1e-3, 1e-1], biases of B and C and D = 1."""
        start_steps(torch.empty_like(self.dt_bias), self.dt_bias)
        for ones in (self.bias_B, self.bias_C, self.D):
            nn.init.ones_(ones)


def _scan(
    *,
    u: Tensor,
    u_before: Tensor,
    B: Tensor,
    B_before: Tensor,
    C: Tensor,
    dt: Tensor,
    rate: Tensor,
    share: Tensor,
    turn: Tensor,
    bias_B: Tensor,
    bias_C: Tensor,
    dt_bias: Tensor,
    D: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One SSD for both terms of the step.

    Token s comes in with l_s dt_s, and again one step later, decayed by as much as what came in
    before it: together with l_s dt_s + (1 - l_{s+1}) dt_{s+1}, but for the output at s itself. Into
    the state goes the second term of the last token of an earlier call. The state is kept turned
    back by all angles so far, so that angles begin at 0 in every call.
    """
    dt, rate, share, turn = computed(u.dtype, dt, rate, share, turn)
    dt = F.softplus(dt + dt_bias)
    log_decay = -dt * F.softplus(rate).clamp_min(SLOWEST)
    now = torch.sigmoid(share) * dt
    late = dt - now
    weight = now + F.pad(late[:, 1:], (0, 0, 0, 1))
    phi = _added_up(dt.unsqueeze(3) * math.pi * torch.tanh(turn).unsqueeze(2))
    each = u.shape[2] // B.shape[2]
    wide = (t.repeat_interleave(each, 2) for t in (B, B_before, C))
    B, B_before, C = computed(u.dtype, *wide)
    B, C = turned(B + bias_B, phi), turned(C + bias_C, phi)
    if state is not None:
        before = (late[:, 0, :, None] * (B_before[:, 0] + bias_B)).unsqueeze(3)
        state = state + before * u_before[:, 0].unsqueeze(2)
    s, after = ssd(u * weight.unsqueeze(3), log_decay, B, C, state=state)
    once = ((weight - now) * (B * C).sum(3)).unsqueeze(3)
    y = s - once * u + u * D.unsqueeze(1)
    return y.to(u.dtype), turned(after.transpose(2, 3), -phi[:, -1].unsqueeze(2)).transpose(2, 3)


def _added_up(angles: Tensor) -> Tensor:
    """Sum over (B, T, ...) in float64: an angle of hundreds of turns has lost its last digits."""
    return angles.double().cumsum(1).remainder(2 * math.pi).to(angles.dtype)


def turned(x: Tensor, phi: Tensor) -> Tensor:
    """Turn pair i of x's last axis, channels 2i and 2i + 1, by phi[..., i]; further ones stay."""
    n = 2 * phi.shape[-1]
    a, b, cos, sin = x[..., 0:n:2], x[..., 1:n:2], phi.cos(), phi.sin()
    pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., n:]], dim=-1)


TRAPEZOID = Recurrence(_scan, no_step={"dt": NO_STEP, "u": 0.0})
"""Mamba-3's recurrence of u (B, T, H, P), B and C (B, T, G, N), dt, rate and share (B, T, H) and
turn (B, T, N / 4); u and B of the token before stand beside them."""
