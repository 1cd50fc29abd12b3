"""Cross-entropy of rows of logits and its gradient in their place, as one Triton kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hymba_lab.ops.triton_device import FUSED, on

BLOCK = 4096  # logits of a row at a time


@triton.jit
def rows(logits, targets, share, losses, vocab, step, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """losses_i = -log softmax(l_i)[t_i];  l_i := share_i (softmax(l_i) - onehot(t_i)), else 0.

    One program a row of `step` places, of which `vocab` are logits.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * step
    target = tl.load(targets + row)
    v = tl.arange(0, BLOCK)
    top, total = float("-inf"), 0.0
    for first in range(0, vocab, BLOCK):
        at = first + v
        some = tl.load(logits + at, mask=at < step, other=0.0).to(tl.float32)
        some = tl.where(at < vocab, some, float("-inf"))
        higher = tl.maximum(top, tl.max(some, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(some - higher), 0)
        top = higher
    lse = top + tl.log(total)
    tl.store(losses + row, lse - tl.load(logits + target).to(tl.float32))
    weight = tl.load(share + row)
    tl.debug_barrier()  # the target's logit is read before its place is written
    for first in range(0, step, BLOCK):
        at = first + v
        some = tl.load(logits + at, mask=at < step, other=0.0).to(tl.float32)
        g = weight * (tl.exp(some - lse) - tl.where(at == target, 1.0, 0.0))
        g = tl.where(at < vocab, g, 0.0)
        tl.store(logits + at, g.to(logits.dtype.element_ty), mask=at < step)


def loss_and_gradient(logits: Tensor, targets: Tensor, share: Tensor, vocab: int) -> Tensor:
    """Return the losses (R,) of logits (R, V); write the gradient of share . losses over them.

    Columns from `vocab` on are no logits and become 0; targets (R,) int64, share (R,) float32.
    """
    losses = torch.empty_like(share)
    with on(logits):
        rows[(len(logits),)](
            logits, targets, share, losses, vocab, logits.stride(0), BLOCK, num_warps=8, **FUSED
        )
    return losses
