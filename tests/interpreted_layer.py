"""Run the Triton kernels of a layer on CPU tensors, each against plain torch in float64.

    TRITON_INTERPRET=1 python tests/interpreted_layer.py

A program, for triton reads TRITON_INTERPRET when imported. It prints one JSON object a case: the
operation, its precision, and the relative error of the output and of every gradient.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hymba_lab.ops.conv import CAUSAL_CONV, causal_conv
from hymba_lab.ops.cross_entropy import linear_cross_entropy
from hymba_lab.ops.rms_norm import RMS_NORM, rms_norm
from hymba_lab.ops.rotary import ROTATION, rope_table, rotate
from hymba_lab.ops.swiglu import SWIGLU, swiglu

Case = tuple[str, Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def cases(seed: int) -> Iterator[Case]:
    """Odd sizes, slices of wider tensors, options off now and then."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    rows, tokens, width = draw.randint(1, 3), draw.randint(1, 70), draw.randint(1, 140)
    wide = torch.randn(rows, tokens, width + 5)[..., 2 : width + 2]
    wide = wide if draw.random() < 0.5 else wide.contiguous()

    eps = 10.0 ** -draw.randint(2, 6)
    form = RMS_NORM.implementations["torch"].run
    weight = torch.rand(width) + 0.5
    yield "rms_norm", lambda x, w: rms_norm(x, w, eps), lambda x, w: form(x, w, eps), [wide, weight]

    silu, taps = draw.random() < 0.5, draw.randint(1, 6)
    given = [wide, torch.randn(width, taps), *([torch.randn(width)] if draw.random() < 0.5 else [])]
    plain = CAUSAL_CONV.implementations["torch"].run

    def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return causal_conv(x, w, b, silu=silu)[0]

    def composed(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = plain(x, w, b, silu, None)[0]
        return y

    yield "causal_conv", conv, composed, given

    heads, half = draw.randint(1, 4), draw.randint(1, 20)
    x = torch.randn(rows, tokens, heads * 2 * half).view(rows, tokens, heads, -1).transpose(1, 2)
    theta = draw.choice([10.0, 1e4])
    cos, sin = rope_table(range(tokens), 2 * half, theta, x.device)
    turn = ROTATION.implementations["torch"].run
    yield ("rotation", lambda x: rotate(x, range(tokens), theta),
           lambda x: turn(x, cos.to(x.dtype), sin.to(x.dtype)), [x])  # fmt: skip
    vocab, targets = 5000 + seed, torch.randint(0, 5000 + seed, (tokens,))
    share = torch.rand(tokens)
    yield ("cross_entropy", lambda x, w: linear_cross_entropy(x, w, targets, share)[0],
           lambda x, w: plain_cross_entropy(x, w, targets, share),
           [torch.randn(tokens, 9), torch.randn(vocab, 9)])  # fmt: skip
    yield "swiglu", swiglu, SWIGLU.implementations["torch"].run, [wide, torch.randn(wide.shape)]


def plain_cross_entropy(x: Tensor, w: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """The loss as torch has it."""
    each = torch.nn.functional.cross_entropy(x @ w.T, targets, reduction="none")
    return each @ share.to(each.dtype)


def errors(case: Case, low: bool) -> dict[str, Any]:
    """Relative errors of a case; where `low`, everything but weights in bfloat16."""
    name, ours, plain, given = case
    rounded = [t.bfloat16() if low and t.ndim > 2 else t for t in given]
    leaves = [t.detach().requires_grad_() for t in rounded]
    exact = [t.detach().double().requires_grad_() for t in rounded]
    y, expected = ours(*leaves), plain(*exact)
    arriving = torch.randn(y.shape).to(y)
    found = [y, *torch.autograd.grad(y, leaves, arriving)]
    right = [expected, *torch.autograd.grad(expected, exact, arriving.double())]
    assert all(a.dtype == b.dtype for a, b in zip(found[1:], leaves, strict=True)), name
    worst = [((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
             for a, b in zip(found, right, strict=True)]  # fmt: skip
    return {"operation": name, "low": low, "errors": worst, "by": type(y.grad_fn).__name__}


def main() -> None:
    """Run all cases."""
    torch.set_num_threads(1)
    for seed in range(12):
        for case in cases(seed):
            print(json.dumps({"seed": seed, **errors(case, low=seed % 3 == 2)}), flush=True)


if __name__ == "__main__":
    main()
