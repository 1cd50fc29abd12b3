"""The compiled attention, in every build, against a masked softmax in float64."""

import pytest
import torch
from torch import Tensor

from hymba_lab.ops import attention, attention_cpp
from hymba_lab.ops.masks import visible


@pytest.fixture(autouse=True)
def build(kernel_build: str) -> str:
    """What serves without a compiler is tested in `test_attention.py`."""
    if kernel_build == "absent":
        pytest.skip("without the kernel there is nothing to compare")
    return kernel_build


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    seen = visible(q.shape[2], q.shape[2], window, n_meta, 0, q.device)
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def make(
    n_tokens: int, heads: int, kv_heads: int, d_key: int, d_value: int, dtype: torch.dtype
) -> list[Tensor]:
    """q and v as the model gives them, heads inside a token's row; k in the order of its shape."""
    draw = torch.Generator().manual_seed(n_tokens)
    q = torch.randn(2, n_tokens, heads, d_key, generator=draw).transpose(1, 2)
    k = torch.randn(2, kv_heads, n_tokens, d_key, generator=draw)
    v = torch.randn(2, n_tokens, kv_heads, d_value, generator=draw).transpose(1, 2)
    return [t.to(dtype).requires_grad_() for t in (q, k, v)]


def relative_errors(leaves: list[Tensor], window: int | None, n_meta: int) -> list[float]:
    """Of the output and the three gradients, through the largest exact value."""
    out = attention(*leaves, window=window, n_meta=n_meta)
    assert "_Attention" in type(out.grad_fn).__name__
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = masked_softmax(*exact, window, n_meta)
    found = (out, *torch.autograd.grad(out, leaves, arriving))
    wanted = (expected, *torch.autograd.grad(expected, exact, arriving.double()))
    pairs = zip(found, wanted, strict=True)
    return [((got - want).abs().max() / want.abs().max()).item() for got, want in pairs]


SHAPES = [  # tokens, window, meta tokens, query heads, key heads, key width, value width
    (7, None, 0, 1, 1, 8, 8),
    (16, 3, 0, 2, 1, 16, 32),
    (17, 5, 2, 2, 2, 24, 8),
    (36, 9, 4, 4, 2, 16, 24),
    (63, 2, 1, 3, 1, 32, 56),
    (64, 16, 16, 2, 1, 64, 128),
    (65, 64, 30, 2, 2, 8, 80),
    (130, 33, 70, 6, 2, 40, 16),
    (200, None, 4, 2, 1, 64, 64),
    (272, 100, 16, 4, 2, 16, 32),
    (300, 64, 0, 2, 1, 48, 8),
    (530, 150, 65, 2, 2, 16, 16),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_equal_the_masked_softmax(shape: tuple[int, ...]) -> None:
    n_tokens, window, n_meta, *sizes = shape
    leaves = make(n_tokens, *sizes, torch.float32)
    assert max(relative_errors(leaves, window, n_meta)) < 2e-6


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_flat_and_peaked_softmaxes_keep_their_digits(scale: float) -> None:
    q, k, v = make(150, 2, 1, 16, 16, torch.float32)
    with torch.no_grad():
        q *= scale
    assert max(relative_errors([q, k, v], 40, 5)) < 2e-5  # scores of +-100 have 5 digits left


def test_bfloat16_is_rounded_once() -> None:
    leaves = make(100, 4, 2, 16, 32, torch.bfloat16)
    assert max(relative_errors(leaves, 30, 4)) < 2**-7


@pytest.mark.parametrize(("window", "n_meta"), [(None, 0), (7, 2), (20, 0)])
def test_a_change_moves_exactly_the_queries_that_see_it(window: int | None, n_meta: int) -> None:
    q, k, v = (t.detach() for t in make(90, 2, 1, 8, 8, torch.float32))
    seen = visible(90, 90, window, n_meta, 0, q.device)
    before = attention(q, k, v, window=window, n_meta=n_meta)
    for key in (0, 1, 2, 15, 16, 40, 63, 64, 89):
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[:, :, key] += 3
        changed_v[:, :, key] += 3
        after = attention(q, changed_k, changed_v, window=window, n_meta=n_meta)
        moved = (before != after).any(dim=3).any(dim=1).any(dim=0)
        assert torch.equal(moved, seen[:, key])


def test_a_diverged_run_is_seen() -> None:
    q, k, v = (t.detach() for t in make(40, 1, 1, 8, 8, torch.float32))
    k[0, 0, 20] = torch.nan
    out = attention(q, k, v, window=None, n_meta=0)
    assert out[0, 0, 20:].isnan().all() and out[1].isfinite().all()


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cpp, "WORK_PER_THREAD", 1)
    threads, found = torch.get_num_threads(), []
    leaves = make(300, 6, 3, 16, 24, torch.float32)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = attention(*leaves, window=50, n_meta=8)
            found.append((out, *torch.autograd.grad(out, leaves, torch.ones_like(out))))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("d_key", "dtype", "q_start"),
    [(12, torch.float32, 0), (16, torch.float64, 0), (16, torch.float32, 1)],
)
def test_what_it_does_not_take_goes_another_way(
    d_key: int, dtype: torch.dtype, q_start: int
) -> None:
    q, k, v = make(50, 2, 1, d_key, 16, dtype)
    out = attention(q[:, :, q_start:], k, v, window=9, n_meta=2, q_start=q_start)
    assert "_Attention" not in type(out.grad_fn).__name__
    expected = masked_softmax(q.double(), k.double(), v.double(), 9, 2)[:, :, q_start:]
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2e-6)
