"""Cross-entropy of a linear head, a few rows of logits at a time: they are never all in memory."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hymba_lab.ops import triton_device
from hymba_lab.ops.selection import Implementation, Operation

# logits at a time: 4 MB stay in a CPU's cache; a GPU wants few large products
CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**26}
LEAST_ROWS = 256  # fewer make slow matrix products
ALIGNED = 64  # tokens: a vocabulary that is no multiple of it halves the speed of matrix units


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (sum_i share_i l_i, l), l_i = -log softmax(W x_i)[target_i] [nats], both float32.

    x (S, D) float, weight W (V, D), targets (S,) int64, share (S,) float32; l is (S,).
    Only the sum has gradients, of x and W; they are made on the way forward, while a chunk's
    logits are there. Under autocast the products are in its precision, the softmax in float32.
    """
    loss, each = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x, weight, targets, share
    )
    return loss, each


class _LinearCrossEntropy(torch.autograd.Function):
    """dl_i/dlogits = softmax(logits) - onehot(target): G;  dx = G W, dW = G^T x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        low, w = x.to(_product_dtype(x)), _aligned(weight.to(_product_dtype(x)))
        vocab = len(weight)
        each, dx = torch.empty_like(share), torch.empty_like(x)
        dw = torch.zeros_like(w, dtype=weight.dtype)
        for rows in _chunks(len(targets), vocab, x.device.type):
            logits = F.linear(low[rows], w)
            form = CROSS_ENTROPY.run(logits)
            each[rows], g = form(logits, targets[rows], share[rows], vocab)
            dx[rows] = g @ w
            _add_product(dw, g.T, low[rows])
        ctx.save_for_backward(dx)
        ctx.dw = dw[:vocab]  # becomes the weight's gradient: no activation
        ctx.mark_non_differentiable(each)
        return share.dot(each), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (dx,) = ctx.saved_tensors
        return dx * grad, ctx.dw * grad, None, None


def _plain(logits: Tensor, targets: Tensor, share: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """Return the losses of logits (R, V) and share's gradient there, 0 from column `vocab` on."""
    target, part = targets[:, None], share[:, None]
    log_p = logits[:, :vocab].float().log_softmax(-1)
    each = -log_p.gather(1, target).squeeze(1)
    g = log_p.exp_().mul_(part).scatter_add_(1, target, -part)
    if logits.shape[1] == vocab:
        return each, g.to(logits.dtype)
    logits[:, vocab:] = 0
    logits[:, :vocab] = g
    return each, logits


def _triton(logits: Tensor, targets: Tensor, share: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    from hymba_lab.ops.cross_entropy_triton import loss_and_gradient  # needs triton

    return loss_and_gradient(logits, targets, share, vocab), logits


def _product_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else x.dtype


def _aligned(weight: Tensor) -> Tensor:
    """The weight as it is, or for a GPU's matrix units with rows of zeros up to a multiple."""
    missing = -len(weight) % ALIGNED if weight.is_cuda and weight.itemsize == 2 else 0
    return F.pad(weight, (0, 0, 0, missing)) if missing else weight


def rows_at_once(vocab: int, device: str) -> int:
    """Return the rows of logits that a device of this type holds at a time."""
    return max(LEAST_ROWS, CHUNK_LOGITS["cpu" if device == "cpu" else "cuda"] // vocab)


def _chunks(n_rows: int, vocab: int, device: str) -> Iterator[slice]:
    step = rows_at_once(vocab, device)
    return (slice(begin, begin + step) for begin in range(0, n_rows, step))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in one pass over it where the precisions allow."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


CROSS_ENTROPY = Operation(
    "cross_entropy",
    "cross-entropy",
    "HYMBA_LAB_CROSS_ENTROPY",
    {
        "triton": Implementation(
            _triton,
            "the Triton kernel",
            triton_device.LARGE,
            triton_device.missing,
            triton_device.worth_it,
            devices=("cuda",),
        ),
        "torch": Implementation(_plain, "plain torch"),
    },
)
