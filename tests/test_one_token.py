"""Decoding's compiled operations against their equations in float64, in every build."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from test_scan import BUILDS
from torch import Tensor

from hymba_lab.ops import (
    attention_step,
    causal_conv_step,
    kernels,
    one_token,
    selective_scan_step,
)
from hymba_lab.ops.rms_norm import rms_norm
from hymba_lab.ops.rotary import rope_table, rotate

DTYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


@pytest.fixture(autouse=True, params=BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every build that this processor runs, without gradients."""
    own = kernels.variant()
    if own not in BUILDS or BUILDS.index(request.param) < BUILDS.index(own):
        pytest.skip(f"this processor does not run the {request.param} build")
    monkeypatch.setattr(kernels, "variant", lambda: request.param)
    if kernels.missing() is not None:
        pytest.skip("not built")
    with torch.no_grad():
        yield


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    tolerance = DTYPES[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def same_with_two_threads(run: Callable[[], Tensor]) -> Tensor:
    """Parts of the work are independent: their number does not change a bit."""
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(run())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    return found[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 37, 100])
def test_norm(width: int, dtype: torch.dtype) -> None:
    x = random(3, 1, width + 5, dtype=dtype)[..., 2 : width + 2]  # a part of wider rows
    weight = random(width, dtype=dtype)
    assert one_token.fits(x, weight)
    expected = F.rms_norm(x.double(), (width,), weight.double(), 1e-6)
    close(rms_norm(x, weight, 1e-6), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("D", "K"), [(5, 1), (16, 2), (37, 4), (1100, 3)])
def test_convolution(D: int, K: int, dtype: torch.dtype) -> None:
    x, weight, bias = (random(*shape, dtype=dtype) for shape in ((2, D), (D, K), (D,)))
    kept = random(2, K - 1, D, dtype=dtype)
    seen = torch.cat([kept, x[:, None]], 1)
    expected = F.silu((seen.double() * weight.double().T).sum(1) + bias.double())

    def run() -> Tensor:
        state = kept.clone()
        y = causal_conv_step(x, weight, bias, state=state)
        assert torch.equal(state, seen[:, 1:]), "the newest inputs are kept as they are"
        return y

    close(same_with_two_threads(run), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 4, 12, 16, 20])
@pytest.mark.parametrize("D", [3, 1105])
def test_scan(D: int, N: int, dtype: torch.dtype) -> None:
    x, dt, z = (random(2, D, dtype=dtype, seed=i) for i in range(3))
    B, C = (random(2, N, dtype=dtype, seed=i) for i in range(2))
    skip, bias = (random(D, dtype=dtype, seed=i) for i in range(2))
    A, h = -random(D, N, dtype=torch.float32).exp(), random(2, D, N, dtype=torch.float32)
    delta = F.softplus(dt.double() + bias.double())
    after = (delta[..., None] * A).exp() * h.double()
    after += (delta * x.double())[..., None] * B.double()[:, None]
    y = (after @ C.double()[..., None])[..., 0] + skip.double() * x.double()
    y *= F.silu(z.double())

    def run() -> Tensor:
        state = h.clone()
        found, new = selective_scan_step(
            x, dt, A, B, C, skip, z=z, dt_bias=bias, h=state, out=state
        )
        assert new is state
        torch.testing.assert_close(state.double(), after, rtol=2e-6, atol=2e-6)
        return found

    scale = y.abs().amax()  # sums of N terms that may cancel
    close(same_with_two_threads(run) / scale.to(dtype), y / scale.to(dtype).double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n_heads", "n_kv", "P", "V"), [(1, 1, 2, 2), (6, 2, 8, 12), (8, 1, 16, 40), (25, 5, 64, 128)]
)
@pytest.mark.parametrize("n_keys", [[1, 1], [5, 16], [33, 40]])
def test_attention(
    n_heads: int, n_kv: int, P: int, V: int, n_keys: list[int], dtype: torch.dtype
) -> None:
    q = random(2, n_heads, 1, P, dtype=dtype)
    buffers = [random(2, n_kv, 50, width, dtype=dtype) for width in (P, V)]
    k, v = (buffer[:, :, : max(n_keys)] for buffer in buffers)  # as a cache gives them
    found = same_with_two_threads(lambda: attention_step(q, k, v, torch.tensor(n_keys)))
    for row, seen in enumerate(n_keys):
        for head in range(n_heads):
            group = head // (n_heads // n_kv)
            scores = k[row, group, :seen].double() @ q[row, head, 0].double() * P**-0.5
            expected = scores.softmax(0) @ v[row, group, :seen].double()
            close(found[row, head, 0], expected, dtype)


def test_attention_keeps_nan_and_large_scores() -> None:
    q = torch.full((1, 1, 1, 4), 100.0)
    k, v = torch.eye(4)[None, None] * 100, torch.eye(4)[None, None]
    assert torch.isfinite(attention_step(q, k, v, torch.tensor([4]))).all()
    k[0, 0, 1, 0] = torch.nan
    assert attention_step(q, k, v, torch.tensor([4])).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [range(7, 8), torch.tensor([[[3]], [[900]]])])
def test_rotation(positions: Tensor | range, dtype: torch.dtype) -> None:
    x = random(2, 3, 1, 10, dtype=dtype)
    cos, sin = rope_table(positions, 10, 100.0, x.device)
    expected = x.double() * cos + x.double().roll(5, -1) * sin
    close(rotate(x, positions, 100.0), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 50, 20_000])
def test_decay(count: int, dtype: torch.dtype) -> None:
    A_log = random(count, dtype=dtype)
    expected = -A_log.double().exp()
    found = same_with_two_threads(lambda: one_token.decay(A_log))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_a_gradient_a_graph_or_a_mixture_takes_torch() -> None:
    x = torch.ones(1, 1, 4)
    assert one_token.fits(x, None, torch.nn.Parameter(x))
    assert not one_token.fits(x, x.bfloat16())
    assert not one_token.fits(x.double())
    assert not one_token.fits(x.to("meta"))
    with torch.enable_grad():
        assert not one_token.fits(x)
