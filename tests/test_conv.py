"""The causal convolution against a double loop in float64, whole and in pieces."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.ops import causal_conv, conv


@pytest.fixture(autouse=True)
def form(kernel_build: str) -> str:
    """Every build that this processor runs, and what serves without a compiler."""
    return kernel_build


def reference(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None = None) -> Tensor:
    """SiLU of the filter sum, one token and one filter tap at a time."""
    x, weight, bias = x.double(), weight.double(), bias.double()
    n_taps = weight.shape[1]
    rows = []
    for t in range(x.shape[1]):
        total = bias.expand(x.shape[0], -1).clone()
        for back in range(n_taps):
            if t - back >= 0:
                total = total + weight[:, n_taps - 1 - back] * x[:, t - back]
            elif state is not None:
                total = total + weight[:, n_taps - 1 - back] * state.double()[:, t - back]
        rows.append(total / (1 + torch.exp(-total)))
    return torch.stack(rows, dim=1)


def make(n_time: int, n_taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias for a batch of two and five channels."""
    torch.manual_seed(0)
    return torch.randn(2, n_time, 5), torch.randn(5, n_taps), torch.randn(5)


@pytest.mark.parametrize("n_time", [1, 2, 9])
@pytest.mark.parametrize("n_taps", [1, 2, 4])
@pytest.mark.parametrize("continued", [False, True])
def test_outputs_and_gradients_equal_the_loop(n_time: int, n_taps: int, continued: bool) -> None:
    inputs = [*make(n_time, n_taps)]
    if continued:
        inputs.append(torch.randn(2, n_taps - 1, 5))
    leaves = [t.requires_grad_() for t in inputs]
    state = leaves[3] if continued else None
    y, _ = causal_conv(*leaves[:3], state=state)
    expected = reference(*leaves[:3], state)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    arriving = torch.randn(y.shape)
    found = torch.autograd.grad(y, leaves[:3], arriving)
    for got, want in zip(
        found, torch.autograd.grad(expected, leaves[:3], arriving.double()), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(2, 515, 129, 2), (1, 250, 16, 8), (1, 259, 20, 3), (2, 1030, 130, 4), (3, 40, 33, 9)]
)
def test_long_and_wide_ones_equal_the_loop_on_any_number_of_threads(
    shape: tuple[int, int, int, int], form: str
) -> None:
    """Longer than a task of the kernel and wider than a group, up to its most taps and beyond."""
    n_batch, n_time, width, n_taps = shape
    torch.manual_seed(0)
    wide = torch.randn(n_batch, n_time, 2 * width)  # x is a slice of wider rows, as in the model
    leaves = [wide[..., width:], torch.randn(width, n_taps), torch.randn(width)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    arriving = torch.randn(n_batch, n_time, width)
    found = []
    threads = torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        y, _ = causal_conv(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, arriving)])
    torch.set_num_threads(threads)
    expected = reference(*leaves)
    wanted = [expected, *torch.autograd.grad(expected, leaves, arriving.double())]
    for one, two, want in zip(*found, wanted, strict=True):
        compiled = form != "absent" and n_taps <= conv.MOST_TAPS
        assert not compiled or torch.equal(one, two)
        bound = 2e-6 if form == "absent" else 1e-6  # torch sums a bias over 2060 tokens less well
        assert (one - want).abs().max() <= bound * want.abs().max()


@pytest.mark.parametrize("pieces", [[9], [1] * 9, [2, 1, 6], [4, 5]])
@pytest.mark.parametrize("n_taps", [1, 2, 4])
def test_pieces_continue_the_sequence(pieces: list[int], n_taps: int) -> None:
    x, weight, bias = make(9, n_taps)
    whole, last = causal_conv(x, weight, bias)
    state, outputs = None, []
    for piece in x.split(pieces, dim=1):
        y, state = causal_conv(piece, weight, bias, state=state)
        outputs.append(y)
        assert state.shape == (2, n_taps - 1, 5)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    assert state is not None and torch.equal(state, last)


def test_the_state_is_the_last_inputs_and_its_gradient_reaches_them() -> None:
    x, weight, bias = make(9, 4)
    x.requires_grad_()
    _, state = causal_conv(x, weight, bias)
    assert torch.equal(state, x[:, -3:])
    grad = torch.autograd.grad(state.sum(), x)[0]
    assert grad[:, -3:].eq(1).all() and grad[:, :-3].eq(0).all()


def test_the_state_does_not_hold_the_sequence_in_memory() -> None:
    x, weight, bias = make(500, 4)
    _, state = causal_conv(x, weight, bias)
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_the_past_does_not_see_the_future() -> None:
    x, weight, bias = make(9, 4)
    before, _ = causal_conv(x, weight, bias)
    x[:, 5] += 1
    after, _ = causal_conv(x, weight, bias)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:9], after[:, 5:9])


def test_meta_tensors_count_one_multiply_add_per_tap() -> None:
    x, weight, bias = (t.to("meta") for t in make(9, 4))
    for state in (None, torch.empty(2, 3, 5, device="meta")):
        with FlopCounterMode(display=False) as counter:
            y, _ = causal_conv(x, weight, bias, state=state)
        assert y.shape == (2, 9, 5)
        assert counter.get_total_flops() == 2 * 2 * 9 * 5 * 4
