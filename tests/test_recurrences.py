"""Mamba-2's SSD, the delta rules and gated linear attention against a loop in float64."""

import math
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.ops import backends, fla
from hymba_lab.ops.delta_rule import delta_rule, gated_linear_attention
from hymba_lab.ops.ssd import ssd

Inputs = dict[str, Tensor]
Operation = Callable[..., tuple[Tensor, Tensor]]
SEQUENCES = ("x", "log_decay", "B", "C", "q", "k", "v", "beta")


def loop(
    key: Tensor,
    value: Tensor,
    query: Tensor,
    log_decay: Tensor,
    beta: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S <- D S, then S <- S + k (beta (v - S^T k))^T or S + k v^T; o = S^T q, token by token."""
    n_batch, n_time, n_heads, d_key = key.shape
    S = key.new_zeros(n_batch, n_heads, d_key, value.shape[3]) if state is None else state
    outputs = []
    for t in range(n_time):
        S = log_decay[:, t, :, :, None].exp() * S
        new = value[:, t]
        if beta is not None:
            held = torch.einsum("bhkv,bhk->bhv", S, key[:, t])
            new = beta[:, t, :, None] * (new - held)
        S = S + torch.einsum("bhk,bhv->bhkv", key[:, t], new)
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, query[:, t]))
    return torch.stack(outputs, 1) if outputs else value[:, :0], S


def ssd_loop(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    heads = x.shape[2] // B.shape[2]
    key, query = (t.repeat_interleave(heads, 2) for t in (B, C))
    return loop(key, x, query, log_decay.unsqueeze(3), state=state)


def delta_loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return loop(k, v, q, log_decay, beta, state)


def linear_loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return loop(k, v, q, log_decay, None, state)


class Case:
    """An operation, its loop and random inputs for it."""

    def __init__(self, operation: Operation, reference: Operation, per_channel: bool) -> None:
        self.operation, self.reference = operation, reference
        self.per_channel = per_channel

    def inputs(self, seed: int, n_time: int | None = None, strength: float = 2.0) -> Inputs:
        """Random shapes and values in float64, log decays down to -strength, a random state."""
        draw = torch.Generator().manual_seed(seed)

        def size(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (1,), generator=draw))

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        def rand(*shape: int) -> Tensor:
            return torch.rand(shape, generator=draw, dtype=torch.float64)

        n_batch, groups, each, K, V = size(1, 3), size(1, 2), size(1, 3), size(1, 9), size(1, 9)
        T, H = size(1, 150) if n_time is None else n_time, groups * each
        state = randn(n_batch, H, K, V)
        if self.operation is ssd:
            narrow = (n_batch, T, groups, K)
            sequences = {"x": randn(n_batch, T, H, V), "B": randn(*narrow), "C": randn(*narrow)}
            return {**sequences, "log_decay": -strength * rand(n_batch, T, H), "state": state}
        wide = (n_batch, T, H, K)
        decay = -strength * rand(n_batch, T, H, K if self.per_channel else 1)
        found = {"q": randn(*wide), "k": F.normalize(randn(*wide), dim=-1), "log_decay": decay}
        found |= {"v": randn(n_batch, T, H, V), "state": state}
        return found | ({"beta": rand(n_batch, T, H)} if self.operation is delta_rule else {})


CASES = {
    "ssd": Case(ssd, ssd_loop, False),
    "gated-delta": Case(delta_rule, delta_loop, False),
    "kimi-delta": Case(delta_rule, delta_loop, True),
    "gla": Case(gated_linear_attention, linear_loop, True),
    "gla-per-head": Case(gated_linear_attention, linear_loop, False),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def with_gradients(operation: Operation, inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Outputs and the gradients of a fixed random function of both outputs."""
    leaves = {name: t.to(dtype).detach().requires_grad_() for name, t in inputs.items()}
    y, last = operation(**leaves)
    draw = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=dtype)
    for output in (y, last):
        weight = torch.randn(output.shape, generator=draw, dtype=torch.float64)
        loss = loss + (output * weight.to(dtype)).sum()
    grads = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    found = {"y": y, "last": last} | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}


def worst(found: Inputs, expected: Inputs) -> dict[str, float]:
    """The largest error of each tensor over its largest value."""
    return {
        name: ((found[name].double() - right).abs().max() / (right.abs().max() + 1e-30)).item()
        for name, right in expected.items()
        if right.numel()
    }


@every_case
@pytest.mark.parametrize("seed", range(12))
def test_outputs_gradients_and_states_equal_the_float64_loop(case: Case, seed: int) -> None:
    inputs = case.inputs(seed, strength=(0.05, 0.5, 5.0)[seed % 3])
    expected = with_gradients(case.reference, inputs, torch.float64)
    errors = worst(with_gradients(case.operation, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-5, errors
    exact = worst(with_gradients(case.operation, inputs, torch.float64), expected)
    assert max(exact.values()) < 1e-12, exact


@every_case
@pytest.mark.parametrize("n_time", [0, 1, 2, 16, 17, 64, 65, 128])
def test_lengths_around_a_chunk(case: Case, n_time: int) -> None:
    inputs = case.inputs(3, n_time)
    expected = with_gradients(case.reference, inputs, torch.float64)
    errors = worst(with_gradients(case.operation, inputs, torch.float32), expected)
    assert max(errors.values()) < 1e-5, errors


@every_case
@pytest.mark.parametrize("seed", range(6))
def test_a_sequence_continues_from_its_state(case: Case, seed: int) -> None:
    inputs = {name: t.float() for name, t in case.inputs(seed, 100).items()}
    whole, last = case.operation(**inputs)
    state, pieces = inputs.pop("state"), []
    cuts = sorted(random.Random(seed).choices(range(101), k=3))
    for begin, end in zip([0, *cuts], [*cuts, 100], strict=True):
        piece = {name: t[:, begin:end] for name, t in inputs.items()}
        y, state = case.operation(**piece, state=state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@every_case
def test_no_state_is_the_zero_state(case: Case) -> None:
    inputs = {name: t.float() for name, t in case.inputs(1, 21).items()}
    zero = torch.zeros_like(inputs.pop("state"))
    given, absent = case.operation(**inputs, state=zero), case.operation(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(given, absent, strict=True))


@every_case
def test_a_token_without_a_step_leaves_the_state(case: Case) -> None:
    """What padding of a batch is: no decay, nothing written."""
    inputs = {name: t.float() for name, t in case.inputs(2, 40).items()}
    short = {name: t[:, :23] if name in SEQUENCES else t for name, t in inputs.items()}
    for name in {"x", "beta", "log_decay"} | ({"k"} if "beta" not in inputs else set()):
        if name in inputs:
            inputs[name] = inputs[name].clone()
            inputs[name][:, 23:] = 0
    expected, found = case.operation(**short)[1], case.operation(**inputs)[1]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@every_case
def test_the_past_does_not_see_the_future(case: Case) -> None:
    inputs = {name: t.float() for name, t in case.inputs(4, 90).items()}
    before, _ = case.operation(**inputs)
    for name in SEQUENCES:
        if name in inputs:
            inputs[name] = inputs[name].clone()
            inputs[name][:, 50] *= 0.5
    after, _ = case.operation(**inputs)
    torch.testing.assert_close(before[:, :50], after[:, :50], rtol=0, atol=1e-6)
    assert not torch.equal(before[:, 50:], after[:, 50:])


@every_case
def test_a_decay_that_forgets_everything_stays_finite(case: Case) -> None:
    inputs = case.inputs(5, 130)
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], -200.0)
    inputs["log_decay"][:, ::7] = -1e-3
    found = with_gradients(case.operation, inputs, torch.float32)
    assert all(tensor.isfinite().all() for tensor in found.values())
    if not case.per_channel:  # a factor per channel has its lowest value
        expected = with_gradients(case.reference, inputs, torch.float64)
        assert max(worst(found, expected).values()) < 1e-5


@every_case
def test_bfloat16_in_bfloat16_out_computed_in_float32(case: Case) -> None:
    inputs = {name: t.float() for name, t in case.inputs(6, 70).items()}
    short = {n: t.bfloat16() if n not in ("state", "log_decay") else t for n, t in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = case.operation(**short)
    expected, last_expected = case.operation(**{n: t.float() for n, t in short.items()})
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(last, last_expected) and torch.equal(y, expected.bfloat16())


@every_case
def test_nan_is_never_swallowed(case: Case) -> None:
    inputs = {name: t.float() for name, t in case.inputs(8, 90).items()}
    first = next(name for name in ("x", "v") if name in inputs)
    inputs[first] = inputs[first].clone()
    inputs[first][:, 70] = torch.nan
    y, last = case.operation(**inputs)
    assert y[:, 70:].isnan().any() and last.isnan().any() and not y[:, :16].isnan().any()


@every_case
def test_meta_tensors_give_shapes_and_the_flops_of_the_recurrence(case: Case) -> None:
    inputs = case.inputs(9, 33)
    real_y, real_last = case.operation(**{n: t.float() for n, t in inputs.items()})
    with FlopCounterMode(display=False) as counter:
        y, last = case.operation(**{n: t.float().to("meta") for n, t in inputs.items()})
    assert (y.shape, last.shape) == (real_y.shape, real_last.shape) and y.is_meta
    n_batch, n_heads, d_key, d_value = last.shape
    per_state = 7 if "beta" in inputs else 5
    assert counter.get_total_flops() == per_state * n_batch * 33 * n_heads * d_key * d_value


@every_case
def test_what_is_kept_for_the_backward_grows_with_the_inputs_not_with_states(case: Case) -> None:
    inputs = {name: t.float().requires_grad_() for name, t in case.inputs(10, 512).items()}
    kept: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        case.operation(**inputs)
    state = inputs["state"].numel()
    chunk = 16 if case.per_channel else 64
    rows = math.prod(inputs["state"].shape[:2]) * 512
    given = sum(t.numel() for t in inputs.values())
    assert sum(kept.values()) <= 3 * given + state * (512 // chunk + 2) + rows * chunk


@every_case
@pytest.mark.parametrize("name", ["log_decay", "state"])
def test_a_wrong_shape_is_refused(case: Case, name: str) -> None:
    inputs: dict[str, Any] = {n: t.float() for n, t in case.inputs(11, 5).items()}
    inputs[name] = torch.cat([inputs[name]] * 2, dim=2)
    with pytest.raises(ValueError, match=f"{name} must be"):
        case.operation(**inputs)


# ------------------------------------------------------------------ kernels of another package


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules with flash-linear-attention's names and signatures, on the CPU; what was called."""
    called: list[str] = []

    def put(module: str, name: str) -> None:
        def run(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            g: Tensor,
            beta: Tensor | None = None,
            scale: float | None = None,
            initial_state: Tensor | None = None,
            output_final_state: bool = False,
        ) -> tuple[Tensor, Tensor]:
            assert output_final_state and scale == 1.0
            called.append(name)
            wide = g.unsqueeze(3) if g.ndim == 3 else g
            return loop(k, v, q, wide, beta, initial_state)

        made = types.ModuleType(f"fla.ops.{module}")
        setattr(made, name, run)
        monkeypatch.setitem(sys.modules, made.__name__, made)

    for module in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    for module in ("gated_delta_rule", "kda", "gla", "simple_gla"):
        put(module, f"chunk_{module}")
    return called


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("ssd", "chunk_simple_gla"),
        ("gated-delta", "chunk_gated_delta_rule"),
        ("kimi-delta", "chunk_kda"),
        ("gla", "chunk_gla"),
        ("gla-per-head", "chunk_simple_gla"),
    ],
)
def test_flash_linear_attention_gets_its_own_names(
    stand_in: list[str], name: str, kernel: str
) -> None:
    case = CASES[name]
    inputs = {n: t.float() for n, t in case.inputs(12, 20).items()}
    expected = case.operation(**inputs)
    forms = {ssd: fla.ssd, delta_rule: fla.delta_rule}
    found = forms.get(case.operation, fla.linear_attention)(**inputs)
    assert stand_in == [kernel]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_what_runs_is_told_with_reasons() -> None:
    for name in ("ssd", "delta_rule", "linear_attention"):
        status = backends()[name]
        assert status["chosen"] in ("torch", "fla") and "torch" in status["available"]
        assert ("fla" in status["available"]) != ("fla" in status["unavailable"])
