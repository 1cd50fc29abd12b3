"""Windowed attention against torch's own, forward and backward.

    python benchmarks/attention.py [--tokens 4096] [--dtype float32] [--rounds 5] [--json]

Two comparisons per length: with a boolean mask, which shows the same keys, and causal without a
window, which shows more keys than asked for but is the cheapest single call.
"""

import argparse

import torch
import torch.nn.functional as F
from pairs import Side, Step, Table, compare, parser, show
from torch import Tensor

from hymba_lab.ops import attention
from hymba_lab.ops.masks import visible
from hymba_lab.training.memory import keep_memory

TOKENS = [128, 256, 512, 640, 768, 1024, 1536, 2048, 4096, 8192]


def main() -> None:
    """Print a table for each length."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--tokens", type=int, action="append", help=f"default: {TOKENS}")
    made.add_argument("--window", type=int, default=256, help="tokens (default: 256)")
    made.add_argument("--n-meta", type=int, default=128, help="tokens (default: 128)")
    made.add_argument("--batch", type=int, default=1, help="rows (default: 1)")
    made.add_argument("--heads", type=int, default=8, help="of queries; half of keys (default: 8)")
    made.add_argument("--width", type=int, default=64, help="of a head (default: 64)")
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = made.parse_args()
    show([table(n_tokens, options) for n_tokens in options.tokens or TOKENS], options)


def table(n_tokens: int, options: argparse.Namespace) -> Table:
    """Return ours against both calls of torch."""
    sides = [
        Side(name, make, (n_tokens, options))
        for name, make in (("ours", ours), ("SDPA, mask", masked), ("SDPA, causal", causal))
    ]
    outcomes = compare(sides, rounds=options.rounds, threads=options.threads)
    limits = {"SDPA, mask": 4.0 if n_tokens == 4096 else 0.95}
    facts = f"window {options.window}, {options.n_meta} meta tokens, {options.dtype}"
    return Table(f"Attention, T {n_tokens}, {facts}", outcomes, limits)


def ours(n_tokens: int, options: argparse.Namespace) -> Step:
    """Return the step of `attention`."""
    q, k, v, arriving = _inputs(n_tokens, options)

    def step() -> None:
        out = attention(q, k, v, window=options.window, n_meta=options.n_meta)
        torch.autograd.grad(out, (q, k, v), arriving)

    return step


def masked(n_tokens: int, options: argparse.Namespace) -> Step:
    """Return the step of torch's attention with a mask made beforehand."""
    q, k, v, arriving = _inputs(n_tokens, options)
    mask = visible(n_tokens, n_tokens, options.window, options.n_meta, 0, q.device)

    def step() -> None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        torch.autograd.grad(out, (q, k, v), arriving)

    return step


def causal(n_tokens: int, options: argparse.Namespace) -> Step:
    """Return the step of torch's attention over all earlier keys."""
    q, k, v, arriving = _inputs(n_tokens, options)

    def step() -> None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.autograd.grad(out, (q, k, v), arriving)

    return step


def _inputs(n_tokens: int, options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q, k, v that want gradients, and the gradient that arrives."""
    keep_memory()
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    heads, n_kv = options.heads, max(1, options.heads // 2)
    shape = (options.batch, n_tokens, options.width)
    q, k, v, arriving = (
        torch.randn(shape[0], n, *shape[1:], dtype=dtype) for n in (heads, n_kv, n_kv, heads)
    )
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), arriving


if __name__ == "__main__":
    main()
