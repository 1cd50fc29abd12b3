"""The recurrences over matrix states against what plain torch does with them.

Sides: ours; the same chunks differentiated by autograd, which keeps every product; a loop over the
tokens. Forward and backward, 512 value channels, batch 4, 512 tokens:

    python benchmarks/mixers.py --threads 1

Then attention of eight heads of 64 alone, with a sink, and with a gate on its output without the
gate's own projection; last the whole module with its projections from 512 channels, the gate's too.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pairs import Side, Step, Table, compare, parser, show
from torch import Tensor

from hymba_lab.components.attention import attentions
from hymba_lab.components.heads import AttentionHeads
from hymba_lab.ops import attention
from hymba_lab.ops.delta_rule import delta_rule, gated_linear_attention
from hymba_lab.ops.ssd import ssd
from hymba_lab.training.memory import keep_memory

Operation = Callable[..., Tensor]
N_BATCH, N_TIME = 4, 512
SSD_SHAPE = (8, 64, 64)  # heads, states, channels of a head: Mamba-2's head and half its states
DELTA_SHAPE = (4, 64, 128)  # heads, key and value channels: expand_v 2
OF_AUTOGRAD, OF_LOOP = 1.0, 8.0  # how many times ours the others must take at least


TABLES = ("ssd", "gated delta", "kimi delta", "gla", "attention", "module")


def main(arguments: list[str] | None = None) -> None:
    """Print one table per recurrence, of attention, and of its module."""
    made = parser(__doc__, rounds=7)
    made.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    options = made.parse_args(arguments)
    others = {"attention": _attention_table, "module": _module_table}
    tables = [
        others[name](options) if name in others else _table(name, options) for name in options.only
    ]
    show(tables, options)


def _table(name: str, options: argparse.Namespace) -> Table:
    sides = [Side("ours", step, (name, "ours"))]
    if name != "gla":
        sides.append(Side("autograd over chunks", step, (name, "autograd")))
    sides.append(Side("loop over tokens", step, (name, "loop"), cold=True))
    outcomes = compare(sides, rounds=options.rounds, threads=options.threads)
    limits = {"autograd over chunks": OF_AUTOGRAD, "loop over tokens": OF_LOOP}
    heads, d_key, d_value = SSD_SHAPE if name == "ssd" else DELTA_SHAPE
    title = f"{name}: {heads} heads, state {d_key} x {d_value}, B {N_BATCH}, T {N_TIME}, backward"
    return Table(title, outcomes, {} if name in ("kimi delta", "gla") else limits)


def _attention_table(options: argparse.Namespace) -> Table:
    sides = [Side(name, attention_step, (name,)) for name in ("plain", "sink", "gate per head")]
    outcomes = compare(sides, rounds=3 * options.rounds, threads=options.threads)
    return Table(f"attention: 8 heads of 64, B {N_BATCH}, T {N_TIME}, backward", outcomes)


MODULES: dict[str, dict[str, str]] = {
    "plain": {},
    "learned sink": {"sink": "learned"},
    "gate per head": {"output_gate": "per_head"},
    "gate per channel": {"output_gate": "elementwise"},
}


def _module_table(options: argparse.Namespace) -> Table:
    sides = [Side(name, module_step, (name,)) for name in MODULES]
    outcomes = compare(sides, rounds=3 * options.rounds, threads=options.threads)
    title = f"attention module: 512 channels, 8 heads of 64, B {N_BATCH}, T {N_TIME}, backward"
    return Table(title, outcomes)


def module_step(name: str) -> Step:
    """Return forward and backward of a module with its projections, for input and weights."""
    keep_memory()
    torch.manual_seed(0)
    heads = AttentionHeads(n_heads=8, n_kv_heads=8, d_head=64, d_head_v=64)
    module = attentions.build(
        attentions.spec("softmax", **MODULES[name]), 512, heads, None, 0, True
    )
    x = torch.randn(N_BATCH, N_TIME, 512, requires_grad=True)
    arriving = torch.randn(N_BATCH, N_TIME, 512)

    def once() -> None:
        torch.autograd.grad(module(x)[0], [x, *module.parameters()], arriving)

    return once


def attention_step(name: str) -> Step:
    """Return forward and backward of attention with what `name` adds."""
    keep_memory()
    torch.manual_seed(0)
    heads = (N_BATCH, N_TIME, 8, 64)
    leaves = [torch.randn(heads).requires_grad_() for _ in range(3)]
    extra = torch.zeros(8) if name == "sink" else torch.randn(*heads[:3], 1)
    leaves += [extra.requires_grad_()] if name != "plain" else []
    arriving = torch.randn(heads)

    def once() -> None:
        q, k, v = (leaf.transpose(1, 2) for leaf in leaves[:3])
        sink = leaves[3] if name == "sink" else None
        o = attention(q, k, v, window=None, n_meta=0, sink=sink).transpose(1, 2)
        o = o * torch.sigmoid(leaves[3]) if name == "gate per head" else o
        torch.autograd.grad(o, leaves, arriving)

    return once


def step(name: str, side: str) -> Step:
    """Return forward and backward of one side, for every input."""
    keep_memory()
    torch.manual_seed(0)
    leaves = [t.requires_grad_() for t in (ssd_inputs() if name == "ssd" else delta_inputs(name))]
    operation = OPERATIONS[name][side]
    arriving = torch.randn(operation(*leaves).shape)

    def once() -> None:
        torch.autograd.grad(operation(*leaves), leaves, arriving)

    return once


def ssd_inputs() -> list[Tensor]:
    """x, log_decay, B, C of one group."""
    heads, d_state, width = SSD_SHAPE
    narrow = (N_BATCH, N_TIME, 1, d_state)
    x = torch.randn(N_BATCH, N_TIME, heads, width) * 0.1
    log_decay = -torch.rand(N_BATCH, N_TIME, heads)
    return [x, log_decay, torch.randn(narrow), torch.randn(narrow)]


def delta_inputs(name: str) -> list[Tensor]:
    """q, k, v, log_decay and, where the rule corrects, beta."""
    heads, d_key, d_value = DELTA_SHAPE
    lead = (N_BATCH, N_TIME, heads)
    log_decay = -torch.rand(*lead, 1) if name == "gated delta" else -5 * torch.rand(*lead, d_key)
    q, k = torch.randn(*lead, d_key), F.normalize(torch.randn(*lead, d_key), dim=-1)
    found = [q, k, torch.randn(*lead, d_value), log_decay]
    return found if name == "gla" else [*found, torch.rand(lead)]


# ------------------------------------------------------------------ autograd over chunks


def _cut(x: Tensor, n_chunk: int) -> Tensor:
    """(B, T, H, W) -> (B, n, H, C, W)."""
    n_batch, _, heads, width = x.shape
    return x.view(n_batch, -1, n_chunk, heads, width).permute(0, 1, 3, 2, 4)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts, 1).permute(0, 1, 3, 2, 4).flatten(1, 2)


def _between(g: Tensor) -> Tensor:
    """e^(g_i - g_j) for j <= i, g (..., C)."""
    return (g[..., :, None] - g[..., None, :]).tril().exp().tril()


def ssd_autograd(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, n_chunk: int = 64) -> Tensor:
    """The dual form of arXiv:2405.21060, listing 1, in chunks of 64."""
    x, g = _cut(x, n_chunk), _cut(log_decay.unsqueeze(3), n_chunk)[..., 0].cumsum(-1)
    B, C = _cut(B, n_chunk), _cut(C, n_chunk)
    inside = (C @ B.mT * _between(g)) @ x
    written = (B * (g[..., -1:] - g).exp()[..., None]).mT @ x
    whole = g[..., -1].exp()[..., None, None]
    state, states = torch.zeros_like(written[:, 0]), []
    for i in range(x.shape[1]):
        states.append(state)
        state = whole[:, i] * state + written[:, i]
    y = inside + (C * g.exp()[..., None]) @ torch.stack(states, 1)
    return y.permute(0, 1, 3, 2, 4).flatten(1, 2)


def delta_autograd(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """The chunks of arXiv:2412.06464 (64 tokens) or of arXiv:2510.26692 (16)."""
    per_head = log_decay.shape[3] == 1
    n_chunk = 64 if per_head else 16
    q, k, v, g, beta = (_cut(t, n_chunk) for t in (q, k, v, log_decay, beta.unsqueeze(3)))
    g = g.cumsum(-2)
    since, to_end = g.exp(), (g[..., -1:, :] - g).exp()
    one = torch.eye(n_chunk)
    if per_head:
        between = _between(g[..., 0])
        A, P = (beta * k) @ k.mT * between, q @ k.mT * between
    else:
        written = k * (-g).exp()
        A, P = beta * ((k * since) @ written.mT), (q * since) @ written.mT
    right = torch.cat([beta * v, beta * k * since], -1)
    solved = torch.linalg.solve_triangular(A.tril(-1) + one, right, upper=False, unitriangular=True)
    u, w = solved.split([v.shape[-1], k.shape[-1]], -1)
    P, reads, kept, whole = P.tril(), q * since, (k * to_end).mT, g[..., -1:, :].exp().mT
    state, outputs = q.new_zeros(*q.shape[:1], *q.shape[2:3], k.shape[-1], v.shape[-1]), []
    for i in range(q.shape[1]):
        new = u[:, i] - w[:, i] @ state
        outputs.append(reads[:, i] @ state + P[:, i] @ new)
        state = whole[:, i] * state + kept[:, i] @ new
    return _joined(outputs)


# ------------------------------------------------------------------ loops over the tokens


def ssd_loop(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One group, one token after another, as the equation reads."""
    state, outputs = x.new_zeros(len(x), x.shape[2], B.shape[3], x.shape[3]), []
    for t in range(x.shape[1]):
        added = B[:, t].unsqueeze(3) * x[:, t].unsqueeze(2)
        state = log_decay[:, t, :, None, None].exp() * state + added
        outputs.append((C[:, t].unsqueeze(3) * state).sum(2))
    return torch.stack(outputs, 1)


def delta_loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None = None
) -> Tensor:
    """The rule, or without beta linear attention, one token after another."""
    state, outputs = q.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[3]), []
    for t in range(q.shape[1]):
        state = log_decay[:, t].exp().unsqueeze(3) * state
        k_t, v_t = k[:, t].unsqueeze(3), v[:, t]
        if beta is not None:
            v_t = beta[:, t].unsqueeze(2) * (v_t - (k_t * state).sum(2))
        state = state + k_t * v_t.unsqueeze(2)
        outputs.append((q[:, t].unsqueeze(3) * state).sum(2))
    return torch.stack(outputs, 1)


OPERATIONS: dict[str, dict[str, Operation]] = {
    "ssd": {"ours": lambda *t: ssd(*t)[0], "autograd": ssd_autograd, "loop": ssd_loop},
    "gated delta": {
        "ours": lambda *t: delta_rule(*t)[0],
        "autograd": delta_autograd,
        "loop": delta_loop,
    },
    "gla": {"ours": lambda *t: gated_linear_attention(*t)[0], "loop": delta_loop},
}
OPERATIONS["kimi delta"] = OPERATIONS["gated delta"]

if __name__ == "__main__":
    main()
