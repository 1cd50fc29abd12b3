"""The causal convolution with SiLU, forward and backward, against `F.conv1d` and a plain copy.

    python benchmarks/conv.py [--shape 4,512,512] [--rounds 9] [--threads 2] [--json]

The copy reads and writes one tensor in the forward and one in the backward: what a fused kernel
that is bound by memory could not go below.
"""

import torch
import torch.nn.functional as F
from pairs import Side, Step, Table, compare, parser, show

from hymba_lab.ops import causal_conv
from hymba_lab.training.memory import keep_memory

SHAPES = ["4,512,512", "4,1536,1024"]
FILTER = 4  # tokens


def main() -> None:
    """Print a table for each shape."""
    made = parser(__doc__, rounds=9)
    made.add_argument("--shape", action="append", metavar="B,D,T", help=f"default: {SHAPES}")
    options = made.parse_args()
    tables = []
    for text in options.shape or SHAPES:
        shape = tuple(map(int, text.split(",")))
        sides = [
            Side("ours", ours, (shape,)),
            Side("F.conv1d and F.silu", conv1d, (shape,)),
            Side("a copy there and one back", copies, (shape,)),
        ]
        outcomes = compare(sides, rounds=options.rounds, threads=options.threads)
        tables.append(Table(f"Convolution ({text}), forward + backward", outcomes))
    show(tables, options)


def ours(shape: tuple[int, int, int]) -> Step:
    """Return the step of `causal_conv`."""
    x, weight, bias, arriving = _inputs(shape)

    def step() -> None:
        y, _ = causal_conv(x, weight, bias)
        torch.autograd.grad(y, (x, weight, bias), arriving)

    return step


def conv1d(shape: tuple[int, int, int]) -> Step:
    """Return the step of torch's depthwise convolution over the transposed sequence."""
    x, weight, bias, arriving = _inputs(shape)

    def step() -> None:
        turned = F.pad(x.transpose(1, 2), (FILTER - 1, 0))
        y = F.conv1d(turned, weight.unsqueeze(1), bias, groups=shape[1])
        torch.autograd.grad(F.silu(y).transpose(1, 2), (x, weight, bias), arriving)

    return step


def copies(shape: tuple[int, int, int]) -> Step:
    """Return a step that moves as much as a fused kernel must, and computes nothing."""
    x, _, _, arriving = _inputs(shape)
    plain = x.detach()

    def step() -> None:
        plain.clone()
        torch.add(plain, arriving)  # the backward reads both

    return step


def _inputs(shape: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    """Return x (B, T, D), weight (D, K), bias (D) that want gradients, and the one arriving."""
    keep_memory()
    torch.manual_seed(0)
    n_batch, n_channels, n_time = shape
    x, arriving = (torch.randn(n_batch, n_time, n_channels) for _ in range(2))
    weight, bias = torch.randn(n_channels, FILTER), torch.randn(n_channels)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), arriving


if __name__ == "__main__":
    main()
