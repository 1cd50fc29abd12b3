"""Attention against a masked softmax in float64, and what each query may see."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.ops import attention
from hymba_lab.ops.attention import ATTENTION
from hymba_lab.ops.attention_blocks import blocks_are_faster, windowed_attention
from hymba_lab.ops.attention_flex import fits, flex_attention
from hymba_lab.ops.flops import visible_pairs
from hymba_lab.ops.masks import attention_mask


def sees(query: int, key: int, window: int | None, n_meta: int) -> bool:
    """The rule, one pair at a time."""
    if key > query:
        return False
    return window is None or query - key < window or key < n_meta


def reference(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int, q_start: int
) -> Tensor:
    """Masked softmax in float64, one query at a time, over its visible keys only."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[1] // k.shape[1]
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    for head in range(q.shape[1]):
        for i in range(q.shape[2]):
            keys = [j for j in range(k.shape[2]) if sees(q_start + i, j, window, n_meta)]
            if keys:
                seen_k, seen_v = k[:, head // groups, keys], v[:, head // groups, keys]
                scores = torch.einsum("bp,bsp->bs", q[:, head, i], seen_k) / q.shape[3] ** 0.5
                out[:, head, i] = torch.einsum("bs,bsv->bv", scores.softmax(1), seen_v)
    return out


def make(
    n_queries: int, n_keys: int, heads: int = 4, kv_heads: int = 2, d_key: int = 8, d_value: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v for a batch of two."""
    torch.manual_seed(n_queries + 100 * n_keys)
    return (
        torch.randn(2, heads, n_queries, d_key),
        torch.randn(2, kv_heads, n_keys, d_key),
        torch.randn(2, kv_heads, n_keys, d_value),
    )


def random_case(seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, int | None]]:
    """Sizes drawn so that causal, masked, decoding and cut-off cases all occur."""
    draw = random.Random(seed)
    n_queries, q_start = draw.randint(1, 12), draw.choice([0, 0, draw.randint(0, 12)])
    n_keys = draw.choice([q_start + n_queries, draw.randint(1, 20)])
    kv_heads = draw.choice([1, 2, 3])
    tensors = make(
        n_queries, n_keys, kv_heads * draw.choice([1, 2]), kv_heads, 4, draw.choice([2, 4, 8])
    )
    window = draw.choice([None, draw.randint(1, 20)])
    return tensors, {"window": window, "n_meta": draw.randint(0, 6), "q_start": q_start}


@pytest.mark.parametrize("seed", range(40))
def test_random_sizes_equal_the_masked_softmax(seed: int) -> None:
    tensors, options = random_case(seed)
    out = attention(*tensors, **options)
    torch.testing.assert_close(out.double(), reference(*tensors, **options), rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_tokens", range(8, 24))
@pytest.mark.parametrize(("window", "n_meta"), [(5, 2), (3, 0), (1, 0), (1, 4), (6, 1)])
def test_blocks_equal_the_masked_softmax(n_tokens: int, window: int, n_meta: int) -> None:
    tensors = make(n_tokens, n_tokens)
    out = windowed_attention(*tensors, window=window, n_meta=n_meta, scale=8**-0.5)
    expected = reference(*tensors, window=window, n_meta=n_meta, q_start=0)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)


def by_blocks(q: Tensor, k: Tensor, v: Tensor, window: int | None, n_meta: int) -> Tensor:
    """The block form as `attention` calls it, at sizes where it would not take it."""
    assert window is not None
    return windowed_attention(q, k, v, window, n_meta, q.shape[3] ** -0.5)


GRADIENTS = [
    pytest.param(attention, None, 0, 8, id="causal"),
    pytest.param(attention, 5, 2, 8, id="mask"),
    pytest.param(attention, 5, 2, 4, id="mask-narrow-values"),
    pytest.param(attention, 5, 2, 16, id="mask-wide-values"),
    pytest.param(by_blocks, 5, 2, 8, id="blocks"),
    pytest.param(by_blocks, 7, 0, 8, id="blocks-without-meta"),
]


@pytest.mark.parametrize(("form", "window", "n_meta", "d_value"), GRADIENTS)
def test_gradients_equal_those_of_the_masked_softmax(
    form: Callable[..., Tensor], window: int | None, n_meta: int, d_value: int
) -> None:
    leaves = [t.requires_grad_() for t in make(24, 24, d_key=8, d_value=d_value)]
    out = form(*leaves, window=window, n_meta=n_meta)
    arriving = torch.randn(out.shape)
    found = torch.autograd.grad(out, leaves, arriving)
    exact = reference(*leaves, window=window, n_meta=n_meta, q_start=0)
    expected = torch.autograd.grad(exact, leaves, arriving.double())
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [attention, by_blocks])
def test_a_key_outside_the_window_is_not_seen(form: Callable[..., Tensor]) -> None:
    n_tokens, window, n_meta = 25, 7, 2
    q, k, v = make(n_tokens, n_tokens)
    before = form(q, k, v, window=window, n_meta=n_meta)
    for key in range(n_tokens):
        changed_k, changed_v = k.clone(), v.clone()
        changed_k[:, :, key] += 3
        changed_v[:, :, key] += 3
        after = form(q, changed_k, changed_v, window=window, n_meta=n_meta)
        moved = (before != after).any(dim=3).any(dim=1).any(dim=0).tolist()
        assert moved == [sees(i, key, window, n_meta) for i in range(n_tokens)]


@pytest.mark.parametrize(("window", "n_meta"), [(None, 0), (6, 0), (6, 3)])
def test_decoding_token_by_token_equals_the_whole(window: int | None, n_meta: int) -> None:
    q, k, v = make(50, 50, d_value=16)
    whole = attention(q, k, v, window=window, n_meta=n_meta)
    for i in range(50):
        seen = slice(0, i + 1)
        one = attention(
            q[:, :, i : i + 1], k[:, :, seen], v[:, :, seen],
            window=window, n_meta=n_meta, q_start=i,
        )  # fmt: skip
        torch.testing.assert_close(one[:, :, 0], whole[:, :, i], rtol=1e-5, atol=2e-6)


def test_a_mask_made_for_inference_serves_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made as an inference tensor cannot be kept for a backward pass."""
    monkeypatch.setenv(ATTENTION.variable, "sdpa")
    q, k, v = make(11, 11)
    with torch.inference_mode():
        assert not attention_mask(q, 11, 7, 1, 0).is_inference()
        attention(q, k, v, window=7, n_meta=1)
    q.requires_grad_()
    attention(q, k, v, window=7, n_meta=1).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_bfloat16_stays_bfloat16() -> None:
    tensors = [t.bfloat16() for t in make(30, 30, d_value=16)]
    out = attention(*tensors, window=7, n_meta=2)
    expected = reference(*tensors, window=7, n_meta=2, q_start=0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)


def test_long_windows_go_through_blocks_and_equal_the_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, k, v = make(600, 600, d_value=16)
    assert blocks_are_faster(q, 600, 20, 5)
    found = []
    for form in ("blocks", "sdpa"):  # the C++ kernel would be taken before either
        monkeypatch.setenv(ATTENTION.variable, form)
        assert ATTENTION.choose(q, k, v, 20, 5, 0) == form
        found.append(attention(q, k, v, window=20, n_meta=5))
    torch.testing.assert_close(*found, rtol=1e-5, atol=2e-6)


def test_blocks_are_taken_only_where_they_save_work() -> None:
    def faster(n_tokens: int, n_keys: int, window: int, n_meta: int, dtype: torch.dtype) -> bool:
        q = torch.empty(1, 1, n_tokens, 8, dtype=dtype)
        return blocks_are_faster(q, n_keys, window, n_meta)

    assert faster(2048, 2048, 256, 128, torch.float32)
    assert faster(2048, 2048, 256, 128, torch.bfloat16)
    assert faster(896, 896, 256, 128, torch.float32)  # measured 0.76 of the time with a mask
    assert not faster(640, 640, 256, 128, torch.float32)  # measured 0.97
    assert not faster(1152, 1152, 512, 128, torch.float32)  # measured 0.95
    assert not faster(384, 384, 64, 128, torch.float32)  # measured 1.2
    assert not faster(272, 272, 64, 16, torch.float32)  # measured 1.4
    assert not faster(2048, 2048, 16, 0, torch.bfloat16)
    assert not faster(1, 2048, 256, 128, torch.float32)
    assert not faster(300, 300, 256, 128, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("n_tokens", "window"), [(11, 7), (600, 20)])
def test_compiles_without_a_graph_break(n_tokens: int, window: int) -> None:
    tensors = make(n_tokens, n_tokens, d_value=16)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, window=window, n_meta=2)

    torch.compiler.reset()  # shapes seen before would be traced as variable ones
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), run(*tensors))


# ------------------------------------------------------------------ on a GPU


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("window", "n_meta"), [(5, 2), (3, 0), (1, 4)])
def test_flex_attention_sees_what_the_rule_says(window: int, n_meta: int) -> None:
    """Its forward runs on a CPU too, uncompiled; only the backward does not."""
    tensors = make(20, 20, d_key=16, d_value=32)
    out = flex_attention(*tensors, window=window, n_meta=n_meta, scale=16**-0.5)
    expected = reference(*tensors, window=window, n_meta=n_meta, q_start=0)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("d_value", [64, 128])
def test_cuda_equals_the_masked_softmax(d_value: int) -> None:
    on_cpu = make(300, 300, d_key=64, d_value=d_value)
    leaves = [t.cuda().requires_grad_() for t in on_cpu]
    assert fits(leaves[0], leaves[2])
    out = attention(*leaves, window=40, n_meta=8)
    arriving = torch.randn(out.shape)
    found = torch.autograd.grad(out, leaves, arriving.cuda())
    copies = [t.clone().requires_grad_() for t in on_cpu]
    exact = attention(*copies, window=40, n_meta=8)
    torch.testing.assert_close(out.cpu(), exact, rtol=1e-2, atol=1e-2)  # the GPU may use TF32
    for got, want in zip(found, torch.autograd.grad(exact, copies, arriving), strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=2e-2, atol=2e-2)


# ------------------------------------------------------------------ FLOPs


@pytest.mark.parametrize("seed", range(40))
def test_visible_pairs_are_those_of_the_rule(seed: int) -> None:
    (q, k, _), options = random_case(seed)
    start, window, n_meta = options["q_start"], options["window"], options["n_meta"]
    assert start is not None and n_meta is not None
    counted = sum(
        sees(start + i, j, window, n_meta) for i in range(q.shape[2]) for j in range(k.shape[2])
    )
    assert visible_pairs(q.shape[2], k.shape[2], window, n_meta, start) == counted


def test_meta_tensors_count_scores_and_values_of_visible_pairs() -> None:
    q, k, v = (t.to("meta").requires_grad_() for t in make(10, 10, d_key=8, d_value=16))
    with FlopCounterMode(display=False) as counter:
        out = attention(q, k, v, window=4, n_meta=2)
    pairs = sum(sees(i, j, 4, 2) for i in range(10) for j in range(10))
    assert out.shape == (2, 4, 10, 16) and out.is_meta
    assert counter.get_total_flops() == 2 * 4 * pairs * (2 * 8 + 2 * 16)
