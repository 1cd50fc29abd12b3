"""Mamba-3's scan against its recurrence, token by token in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.components.mamba3 import SLOWEST, TRAPEZOID, turned

Inputs = dict[str, Tensor]
FIXED = ("bias_B", "bias_C", "dt_bias", "D")


def inputs(seed: int, n_time: int | None = None) -> Inputs:
    draw = torch.Generator().manual_seed(seed)

    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=draw))

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    n_batch, G, each, N, P = size(1, 3), size(1, 2), size(1, 3), size(2, 9), size(1, 9)
    T, H = size(1, 150) if n_time is None else n_time, G * each
    R = size(1, N // 2)
    found = {
        "u": randn(n_batch, T, H, P),
        "B": randn(n_batch, T, G, N),
        "C": randn(n_batch, T, G, N),
    }
    found |= {"dt": randn(n_batch, T, H) - 2}  # steps of about 0.1
    found |= {name: randn(n_batch, T, H) for name in ("rate", "share")}
    found |= {"turn": randn(n_batch, T, R), "bias_B": randn(H, N), "bias_C": randn(H, N)}
    return found | {"dt_bias": randn(H), "D": randn(H)}


def by_hand(given: Inputs) -> Tensor:
    """The equations of the docstring: h_t of a_t h_{t-1} and the two terms, all angles added up."""
    u, H = given["u"], given["u"].shape[2]
    B, C = (given[n].repeat_interleave(H // given[n].shape[2], 2) for n in ("B", "C"))
    h = u.new_zeros(len(u), H, B.shape[3], u.shape[3])
    phi = u.new_zeros(len(u), H, given["turn"].shape[2])
    last = torch.zeros_like(h)
    outputs = []
    for t in range(u.shape[1]):
        dt = F.softplus(given["dt"][:, t] + given["dt_bias"])
        a = torch.exp(-dt * F.softplus(given["rate"][:, t]).clamp_min(SLOWEST))
        share = torch.sigmoid(given["share"][:, t])
        phi = phi + dt.unsqueeze(2) * math.pi * torch.tanh(given["turn"][:, t]).unsqueeze(1)
        key, query = (
            rotated(B[:, t] + given["bias_B"], phi),
            rotated(C[:, t] + given["bias_C"], phi),
        )
        new = torch.einsum("bhn,bhp->bhnp", key, u[:, t])
        before, after = ((1 - share) * dt * a, share * dt)
        h = a[..., None, None] * h + before[..., None, None] * last + after[..., None, None] * new
        last = new
        outputs.append(torch.einsum("bhnp,bhn->bhp", h, query) + given["D"].unsqueeze(1) * u[:, t])
    return torch.stack(outputs, 1)


def rotated(x: Tensor, phi: Tensor) -> Tensor:
    """The same turn as a product of complex numbers."""
    n = 2 * phi.shape[-1]
    z = torch.view_as_complex(x[..., :n].unflatten(-1, (-1, 2)).contiguous())
    z = z * torch.polar(torch.ones_like(phi), phi)
    return torch.cat([torch.view_as_real(z).flatten(-2), x[..., n:]], -1)


def scan(given: Inputs, cuts: tuple[int, ...] = ()) -> Tensor:
    """The component's scan, in one call or several, each knowing the token before it."""
    tokens = {name: given[name] for name in given if name not in FIXED}
    for name in ("u", "B"):
        tokens[f"{name}_before"] = F.pad(given[name], (0, 0, 0, 0, 1, 0))[:, :-1]
    fixed = {name: given[name] for name in FIXED}
    outputs, state = [], None
    ends = [*cuts, given["u"].shape[1]]
    for start, end in zip([0, *cuts], ends, strict=True):
        part = {name: tensor[:, start:end] for name, tensor in tokens.items()}
        y, state = TRAPEZOID.scan(**part, **fixed, state=state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_outputs_and_gradients_are_the_recurrences(seed: int) -> None:
    given = inputs(seed)
    for tensor in given.values():
        tensor.requires_grad_()
    single = {name: tensor.detach().float().requires_grad_() for name, tensor in given.items()}
    expected, found = by_hand(given), scan(single)
    assert error(found.double(), expected) < 1e-5
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed)).double()
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    (found * weights.float()).sum().backward()  # type: ignore[no-untyped-call]
    for name, tensor in given.items():
        assert tensor.grad is not None
        grad = single[name].grad
        assert grad is not None, name
        assert error(grad.double(), tensor.grad) < 1e-5, name


@pytest.mark.parametrize("seed", range(6))
def test_cuts_change_nothing(seed: int) -> None:
    """A state that was handed on, single tokens among them, gives what one call gives."""
    given = inputs(seed, 40)
    expected = by_hand(given)
    for cuts in ((1,), (17, 18, 19, 35), tuple(range(1, 40))):
        assert error(scan(given, cuts), expected) < 1e-6


def test_padding_leaves_the_state() -> None:
    """Tokens without a step, before and behind: outputs and state are those of the real ones."""
    given = inputs(3, 20)
    expected = scan(given)
    assert TRAPEZOID.no_step is not None
    for front, back in ((5, 0), (0, 4), (3, 2)):
        padded = dict(given)
        for name in given:
            if name not in FIXED:
                tail = [0, 0] * (given[name].ndim - 2)
                value = TRAPEZOID.no_step.get(name, 0.7)
                padded[name] = F.pad(given[name], (*tail, front, back), value=value)
        found = scan(padded)[:, front : front + 20]
        assert error(found, expected) < 1e-6


def test_a_turn_keeps_lengths_and_the_rest() -> None:
    x, phi = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    y = turned(x, phi)
    assert torch.equal(y[:, 4:], x[:, 4:])
    assert error(y.norm(dim=1), x.norm(dim=1)) < 1e-12
    assert error(turned(y, -phi), x) < 1e-12
